"""Any part of a detector with chosen convolutions made dynamic, from a config."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from mmdet.registry import MODELS
from torch import nn

from odconv_det.checkpoints import CheckpointError, inflate
from odconv_det.folding import fold_batch_norms
from odconv_det.layers.norm import is_batch_norm
from odconv_det.placement import choose, conditions
from odconv_det.plugin.pretrained import StrictPretrained, is_pretrained
from odconv_det.surgery import attend, swap

__all__ = ["dynamic_part", "make_attentive", "make_dynamic"]


# Registered by force: a second import of the package must be harmless.
@MODELS.register_module(name="Dynamic", force=True)
def dynamic_part(
    *,
    part: Mapping[str, Any],
    dynamic: Mapping[str, Any],
    where: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a neck, a head or another backbone, and make its convolutions dynamic.

    The part is initialised as the static one would be, by its ``init_cfg`` and its own
    rules, and then inflated (:func:`odconv_det.inflate`): its last layers keep their
    priors, and ``Pretrained`` weights are those of the static part, all of which load.

    Args:
        part: the config of the part itself.
        dynamic: the layer, e.g. ``dict(type='ODConv2d', kernel_num=4)``.
        where: which convolutions, see :func:`odconv_det.placement.choose`; all by
            default.
        **options: what a detector adds to the config of a head, such as ``train_cfg``.

    Raises:
        ValueError: if ``where`` chooses nothing.

    Example:
        In a config: ``neck=dict(type='Dynamic', part=dict(type='FPN', ...),
        dynamic=dict(type='ODConv2d', kernel_num=4), where=dict(kernel_sizes=(3,)))``
    """
    cfg = {**part, **options}
    network = MODELS.build(dict(cfg))
    make_dynamic(network, dynamic, where)
    network.__class__ = _starting_static(type(network))
    network.static_cfg = cfg
    if hasattr(network, "_freeze_stages"):  # upstream froze before the swap
        network._freeze_stages()
    return network


class _StartsStatic:
    """Mixin of a part: its first weights are those of the static part, inflated."""

    static_cfg: dict[str, Any]

    def init_weights(self) -> None:
        static = MODELS.build(dict(self.static_cfg))
        inits = static.init_cfg or []
        inits = [inits] if isinstance(inits, Mapping) else inits
        if any(is_pretrained(init) for init in inits):
            static.__class__ = type("Static", (StrictPretrained, type(static)), {})
        static.init_weights()
        if missing := getattr(static, "_missing_weights", None):
            raise CheckpointError(missing)
        self.load_state_dict(inflate(static.state_dict(), self))
        self._is_init = True


@functools.lru_cache(maxsize=64)
def _starting_static(cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (_StartsStatic, cls), {"__module__": cls.__module__})


def make_dynamic(
    network: nn.Module,
    dynamic: Mapping[str, Any],
    where: Mapping[str, Any] | None = None,
    *,
    norm_cfg: Mapping[str, Any] | None = None,
    leave: tuple[str, ...] = (),
) -> None:
    """Swap convolutions of a network in place, and fold the BatchNorms behind them.

    Args:
        network: of MMDetection.
        dynamic: the layer.
        where: which convolutions.
        norm_cfg: the network's own; its BatchNorm is the attention's too.
        leave: where the names of convolutions begin that stay static in any case.
    """
    _check_type("dynamic", dynamic)
    names = set(choose(network, **conditions(where or {})))
    names = {name for name in names if not name.startswith(leave)}
    if not names:
        raise ValueError(
            f"where={where!r} chooses only layers that stay static: {leave}"
        )
    options = {**_attention_norm(dynamic, norm_cfg), **dynamic}
    swap(
        network,
        lambda name, conv: name in names,
        lambda **geometry: MODELS.build({**options, **geometry}),
    )
    fold_batch_norms(network)


def make_attentive(network: nn.Module, feature_attention: Mapping[str, Any]) -> None:
    """Put feature attention at the end of every residual block, in place."""
    _check_type("feature_attention", feature_attention)
    attend(
        network,
        lambda channels: MODELS.build(dict(feature_attention, channels=channels)),
    )


def _check_type(name: str, cfg: object) -> None:
    if not isinstance(cfg, Mapping) or "type" not in cfg:
        raise ValueError(f"{name} must be a dict with a type, got {cfg!r}")


def _attention_norm(
    dynamic: Mapping[str, Any], norm_cfg: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The network's norm as an option of the layer, if it takes one of that kind."""
    kind = dynamic["type"]
    layer = MODELS.get(kind) if isinstance(kind, str) else kind
    if layer is None or "norm_cfg" not in inspect.signature(layer).parameters:
        return {}
    return {"norm_cfg": dict(norm_cfg)} if norm_cfg and is_batch_norm(norm_cfg) else {}
