"""Any part of a detector with chosen convolutions made dynamic, from a config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmdet.registry import MODELS
from torch import nn

from odconv_det.folding import fold_batch_norms
from odconv_det.layers.norm import is_batch_norm
from odconv_det.placement import choose
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
    network = MODELS.build({**part, **options})
    make_dynamic(network, dynamic, where)
    return network


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
    names = set(choose(network, **(where or {})))
    names = {name for name in names if not name.startswith(leave)}
    options = {**_attention_norm(dynamic, norm_cfg), **dynamic}
    swap(
        network,
        lambda name, conv: name in names,
        lambda **geometry: MODELS.build({**options, **geometry}),
    )
    fold_batch_norms(network)


def make_attentive(network: nn.Module, feature_attention: Mapping[str, Any]) -> None:
    """Put feature attention at the end of every residual block, in place."""
    attend(
        network,
        lambda channels: MODELS.build(dict(feature_attention, channels=channels)),
    )


def _attention_norm(
    dynamic: Mapping[str, Any], norm_cfg: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The network's norm as an option of the layer, if it takes one of that kind."""
    kind = dynamic["type"]
    layer = MODELS.get(kind) if isinstance(kind, str) else kind
    if layer is None or "norm_cfg" not in inspect.signature(layer).parameters:
        return {}
    return {"norm_cfg": dict(norm_cfg)} if norm_cfg and is_batch_norm(norm_cfg) else {}
