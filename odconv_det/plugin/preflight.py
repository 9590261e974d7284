"""What the tools check before they build anything.

Everything a person can get wrong in the command line or the config ends here, in one
line that says what to do.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import print_log

from odconv_det.checkpoints import is_torch_file
from odconv_det.plugin.errors import ToolError, local_rank
from odconv_det.plugin.pretrained import StrictPretrained, is_pretrained, ways_on
from odconv_det.plugin.saved import names_of, newest_whole, pointer
from odconv_det.plugin.sections import check_groups, check_kinds, check_launcher

__all__ = [
    "check_data",
    "check_file",
    "check_output",
    "check_sections",
    "check_sync_norm",
    "check_weights",
    "check_work_dir",
]


def check_file(path: str, role: str, advice: str = "") -> None:
    """Raise ToolError if `path` is a local path without a file."""
    if "://" not in path and not os.path.isfile(os.path.expanduser(path)):
        raise ToolError(f"no {role} {path}{advice and '; '}{advice}")


def check_output(path: str | Path, flag: str) -> None:
    """Raise ToolError if no file can be written to `path`, which `flag` names.

    Before the work, not after it; nothing is made.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ToolError(f"{flag} {path} is a folder: name a file")
    if reason := _unwritable(path.parent):
        raise ToolError(f"{flag} {path} cannot be written: {reason}")


def check_work_dir(cfg: Config) -> None:
    """Raise ToolError if the run cannot write to its work dir."""
    if reason := _unwritable(Path(cfg.work_dir)):
        raise ToolError(
            f"the work dir {cfg.work_dir} cannot be written: {reason}; name another "
            "with --work-dir"
        )


def check_sections(cfg: Config, *names: str) -> None:
    """Raise ToolError if the config lacks one of these parts, or some part is none.

    Its launcher must have started this process.
    """
    lost = [name for name in names if not cfg.get(name)]
    if lost:
        raise ToolError(
            f"{cfg.filename} has no {', '.join(lost)}: name the config of a whole "
            "detector with its data and schedule"
        )
    check_kinds(cfg)
    check_groups(cfg)
    check_launcher(cfg)


def check_data(cfg: Config, *sections: str) -> None:
    """Raise ToolError if files that these sections of the config name are missing.

    A section is a dataloader or an evaluator; wrappers of data sets may nest freely.
    """
    paths = dict.fromkeys(
        path for name in sections for path in _data_paths(cfg.get(name))
    )
    missing = [path for path in paths if _missing(path)]
    if missing:
        raise ToolError(
            f"missing data: {', '.join(missing)}; put or link the data set there, or "
            "set data_root, ann_file and data_prefix in the config (relative paths "
            f"start at {os.getcwd()})"
        )


def check_weights(cfg: Config) -> None:
    """Raise ToolError if the checkpoint or ImageNet file to start from is missing.

    A checkpoint replaces every ImageNet file, so with one those that are missing are
    taken out of the config of MMDetection's own backbones, which would insist on them.
    """
    start = cfg.get("load_from")
    if start:
        check_file(start, "checkpoint", "name the file of an earlier run")
    elif cfg.get("resume") and (named := pointer(cfg.work_dir)) is not None:
        start, file = named.strip(), f"{cfg.work_dir}/last_checkpoint"
        if not start:
            raise ToolError(f"{file} is empty: {_another(cfg)}")
        check_file(start, "checkpoint", f"{file} names it: {_another(cfg)}")
    if start and _is_torn(start):
        advice = _another(cfg) if cfg.get("resume") else "get it again"
        raise ToolError(f"checkpoint {start} is not a whole torch file: {advice}")
    for part, path in _pretrained_parts(cfg.model):
        if not start:
            advice = (
                "put it there (tools/convert_official.py writes it from the authors' "
                f"file), {ways_on(_is_strict(part))}"
            )
            check_file(path, "ImageNet weights", advice)
        elif not _is_strict(part) and (
            "://" in path or _missing(os.path.expanduser(path))
        ):
            part.pop("pretrained", None)
            part["init_cfg"] = None
            if local_rank() == 0:
                print_log(f"{path} is not needed: starting from {start}")


def _another(cfg: Config) -> str:
    """Advice to resume from the newest whole checkpoint of the work dir."""
    whole = newest_whole(*names_of(cfg))
    if whole is None:
        return "pass --resume FILE instead"
    return f"pass --resume {whole} instead, the newest whole one"


def _is_torn(path: str) -> bool:
    """Whether a local torch file is not whole; others are left to their readers."""
    if "://" in path or path.endswith(".safetensors"):
        return False
    return not is_torch_file(os.path.expanduser(path))


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written below `folder`, which may be still to make."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        return f"{there} is a file"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"you may not write to {there}"
    return None


def _pretrained_parts(model: object) -> Iterator[tuple[dict, str]]:
    """The parts of a model that start from a file, and its path."""
    for part in _dicts(model):
        inits = part.get("init_cfg")
        for init in inits if isinstance(inits, (list, tuple)) else [inits]:
            if isinstance(init, str):
                if init.lower() == "none":
                    raise ToolError("init_cfg is the word 'none': write None")
                raise ToolError(
                    f"init_cfg is {init!r}: write init_cfg=dict(type='Pretrained', "
                    f"checkpoint={init!r})"
                )
            if isinstance(init, dict) and is_pretrained(init):
                yield part, str(init.get("checkpoint"))
        if isinstance(part.get("pretrained"), str):
            yield part, part["pretrained"]


def _is_strict(part: dict) -> bool:
    """Whether this is a backbone of ours, which itself waits for a checkpoint."""
    kind = part.get("type")
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(cls, type) and issubclass(cls, StrictPretrained)


def _missing(path: str) -> bool:
    """Whether `path` is local and nothing is there; remote ones are not looked up."""
    return "://" not in path and not os.path.exists(path)


def _dicts(node: object) -> Iterator[dict]:
    """Every dict in a tree of dicts, lists and tuples, outermost first."""
    if isinstance(node, dict):
        yield node
    elif not isinstance(node, (list, tuple)):
        return
    for child in node.values() if isinstance(node, dict) else node:
        yield from _dicts(child)


def _data_paths(section: object) -> Iterator[str]:
    for part in _dicts(section):
        storage = part.get("backend_args")
        if isinstance(storage, dict) and storage.get("backend", "local") != "local":
            continue
        root = part.get("data_root") or ""
        prefixes = part.get("data_prefix") or {}
        folders = prefixes.values() if isinstance(prefixes, dict) else [prefixes]
        for path in (part.get("ann_file"), *folders):
            if isinstance(path, str) and path:
                yield os.path.join(root, path)


def check_sync_norm(cfg: Config) -> None:
    """Raise ToolError if the config has SyncBatchNorm, for processes on a CPU.

    torch has it for GPUs alone. A single process needs no check: MMEngine gives it
    plain BatchNorm.
    """
    # A name, a name with its scope, or the class itself.
    kinds = [str(part.get("type")).rstrip("'>") for part in _dicts(cfg.model)]
    synced = any(kind.endswith(("SyncBN", "SyncBatchNorm")) for kind in kinds)
    if synced or cfg.get("sync_bn"):
        raise ToolError(
            "SyncBN needs GPUs; for several processes on a CPU set "
            "norm_cfg=dict(type='BN') wherever the model has SyncBN, and sync_bn=None"
        )
