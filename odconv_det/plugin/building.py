"""What is wrong with a config, found where a part of it is built.

MMEngine builds every part of a config with one function. An error that comes out of it
is one of the config: the part has a place there, and the line names it.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, Registry, build_functions, init_default_scope
from torch import nn

from odconv_det.checkpoints import CheckpointError
from odconv_det.plugin.errors import ToolError

__all__ = ["build_on_meta", "check_kind", "config_errors", "registered", "suggestion"]

_BUILDERS = ("build_from_cfg", "build_scheduler_from_cfg")
# Some releases of MMEngine put the class in front of what it raised.
_PREFIX = re.compile(r"^class `\w+` in \S+: ")


def build_on_meta(cfg: Config) -> nn.Module:
    """The model of a config: no weights are read, and where possible none are made.

    Raises:
        ToolError: if it cannot be built.
    """
    if not cfg.get("model"):
        raise ToolError("the config has no model: name the config of a detector")
    init_default_scope(cfg.get("default_scope") or "mmdet")
    try:
        with torch.device("meta"):
            return MODELS.build(copy.deepcopy(cfg.model))
    except Exception:  # some ask a tensor for its values
        pass
    with config_errors(cfg):
        return MODELS.build(copy.deepcopy(cfg.model))


@contextmanager
def config_errors(cfg: Config) -> Iterator[None]:
    """Raise ToolError for what goes wrong while a part of ``cfg`` is built.

    Any other error passes, as a bug of the program.
    """
    try:
        yield
    except (ToolError, CheckpointError):
        raise
    except Exception as error:
        if message := _explanation(error, cfg):
            raise ToolError(message) from error
        raise


def _explanation(error: BaseException, cfg: Config) -> str | None:
    """One line for an error of building, with its place in ``cfg``; else ``None``."""
    building = [
        frame.f_locals
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == build_functions.__file__
        and frame.f_code.co_name in _BUILDERS
        and isinstance(frame.f_locals["cfg"], Mapping)
    ]
    if not building:
        return None
    part = building[-1]
    kind = part["cfg"].get("type")
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "no type")
    place = ""
    for one in building:  # from the outside to the inside
        place = _place(one["cfg"], cfg, place)
    where = f"{place} ({name})" if place else name
    return f"{where}: {_reason(error, name, part)}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` if one of ``known`` is like ``word``, else nothing."""
    lower = {str(one).lower(): one for one in known}
    close = difflib.get_close_matches(str(word).lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]}?" if close else ""


def _place(part: Mapping[str, Any], cfg: Config, around: str) -> str:
    """Where ``part`` is in ``cfg``, inside ``around`` if it is there too.

    What a builder added to the part does not count. A part that is nowhere, because it
    was made by another, has the place of what is around it.
    """
    places = [
        place
        for place, own in _parts(cfg.to_dict(), "")
        if "type" in own
        and all(key in part and part[key] == value for key, value in own.items())
    ]
    inside = [place for place in places if place.startswith(f"{around}.")]
    return next(iter([*inside, *places]), around)


def _parts(node: object, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict of a tree with its dotted place, outermost first."""
    if isinstance(node, Mapping):
        if place:
            yield place, node
        children = node.items()
    elif isinstance(node, list | tuple):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from _parts(child, f"{place}.{key}" if place else str(key))


def _reason(error: BaseException, name: str, part: Mapping[str, Any]) -> str:
    # A KeyError's own text is its argument in quotes.
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = _PREFIX.sub("", str(said)).strip()
    registry = part.get("registry")
    if isinstance(error, KeyError) and " registry. Please check" in text:
        return _unknown(name, registry)
    if isinstance(error, KeyError) and (layer := _not_found(error)):
        return _unknown(layer, MODELS)
    if isinstance(error, TypeError):
        if found := re.search(r"multiple values for .*argument '(\w+)'", text):
            return f"there is no argument {found[1]}: leave it out"
        if found := re.search(
            r"(?:(\w+)\.__init__\(\) got an )?unexpected keyword argument '(\w+)'", text
        ):
            owner, word = found.groups()
            cls = part.get("obj_cls")
            own = inspect.isclass(cls) and [one.__name__ for one in inspect.getmro(cls)]
            if owner and own and owner not in own:  # of something that the part makes
                return f"{owner.lstrip('_')} has no argument {word}: leave it out"
            known = suggestion(word, _arguments(cls))
            return f"there is no argument {word}{known or ': leave it out'}"
        if found := re.search(r"missing \d+ required .*?: (.+)$", text):
            return f"{found[1]} must be given"
    if isinstance(error, ValueError) and text:
        return text
    if not text:  # of an assertion
        text = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return (
        f"{type(error).__name__}: {text.rstrip('.')}; mend this part of the config "
        "(python -X dev shows the traceback)"
    )


def _not_found(error: KeyError) -> str | None:
    """The layer that mmcv's ``build_norm_layer`` and its like found in no registry.

    Their message has what they got, ``None``, for what they asked for.
    """
    if not str(error).startswith("'Cannot find None in registry"):
        return None
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_locals["cfg"]["type"]


def check_kind(part: Mapping[str, Any], registry: Registry, place: str) -> None:
    """Raise ToolError if ``registry`` does not have the ``type`` of a part."""
    kind = part.get("type")
    if kind is not None and registered(kind, registry) is None:
        raise ToolError(f"{place} ({kind}): {_unknown(kind, registry)}")


def registered(kind: object, registry: Registry) -> object:
    """What a ``type`` stands for in the default scope; ``None`` for nothing."""
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as scope:
        return scope.get(kind)


def _unknown(name: str, registry: Registry | None) -> str:
    return f"there is no {name}" + (
        suggestion(name, _names(registry))
        or ": import the file that registers it with custom_imports"
    )


def _names(registry: Registry | None) -> set[str]:
    """The names that are registered anywhere in the tree of a registry."""
    names: set[str] = set()
    waiting = [registry.root] if registry is not None else []
    while waiting:
        one = waiting.pop()
        names |= set(one.module_dict)
        waiting += one.children.values()
    return names


def _arguments(cls: object) -> set[str]:
    """Of a class and of those it inherits from, to which it passes the rest on."""
    layers = inspect.getmro(cls) if inspect.isclass(cls) else [cls]
    names: set[str] = set()
    for layer in layers:
        function = layer.__init__ if inspect.isclass(layer) else layer
        if inspect.isfunction(function):
            names |= set(inspect.signature(function).parameters)
    return names - {"self", "args", "kwargs"}
