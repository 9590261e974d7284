"""The inference form of a trained network: the same function in fewer steps."""

from __future__ import annotations

from collections import Counter

from torch import nn

from odconv_det.fusion.graphs import GraphedModule
from odconv_det.fusion.layout import LAYOUTS, Layout, keep_contiguous
from odconv_det.fusion.modules import Fused
from odconv_det.fusion.rewrite import rewrite
from odconv_det.layers import DynamicConv2d, WEConv2d
from odconv_det.surgery import put
from odconv_det.tracing import has_hooks, traced_parts

__all__ = ["GraphedModule", "fuse"]


def fuse(network: nn.Module, *, layout: Layout = "auto") -> nn.Module:
    """Make ``network`` ready for fast inference, in place; return it.

    Every dynamic convolution and every ``nn.Conv2d`` (not its subclasses) is joined
    with what follows it as far as the network can be traced: BatchNorm, the addition of
    a shortcut, ReLU or ReLU6. The attention of a dynamic layer becomes two matrix
    products, and weight excitation a static kernel. Layers that are no weighted sum of
    a bank (DCDConv2d, CGConv2d, WeightNetConv2d) stay as they are. Outputs equal those
    of the network before, but for rounding.

    The network then is for inference only: no gradients, no ``train()``, and its state
    dict has other names. Load weights first, and choose settings such as
    ``out_indices``: they stay as they are. A ``forward`` that changes autocast itself
    loses that. Code that reaches past a module's forward and calls the convolutions in
    it one by one gets what they were joined with, too.

    Args:
        network: any network, a whole detector too, in eval mode.
        layout: ``'channels_last'`` or ``'contiguous'`` (NCHW) memory, or ``'auto'``.

    Raises:
        ValueError: if the network is in training mode, has no convolution that can be
            fused, or ``layout`` is unknown.

    Example:
        >>> detector.eval()
        >>> odconv_det.fuse(detector)
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}")
    training = [name for name, m in network.named_modules() if m.training]
    if training:
        raise ValueError(
            f"fuse() is for inference, and {training[0] or 'the network'} is in "
            "training mode: call eval() on the network first"
        )
    _make_static(network)
    parts = list(traced_parts(network))
    names = Counter(m for _, m in network.named_modules(remove_duplicate=False))
    shared = {module for module, count in names.items() if count > 1}
    if not sum([rewrite(part, layout, shared) for part in parts]):
        if any(isinstance(module, Fused) for module in network.modules()):
            raise ValueError("the network is fused already")
        if hooked := _hooked(network):
            raise ValueError(
                f"hooks keep {', '.join(hooked[:3])}{', ...' if hooked[3:] else ''} as "
                "they are: remove them first (those of pruning with "
                "torch.nn.utils.prune.remove, which makes it permanent)"
            )
        raise ValueError(
            "the network has no convolution that fuse() can reach (a single layer "
            "must stand in a module, such as nn.Sequential)"
        )
    if layout != "contiguous":
        keep_contiguous(network, parts)
    # What stays as it is has parameters of its own.
    return network.requires_grad_(False)


def _hooked(network: nn.Module) -> list[str]:
    """The names of convolutions whose hooks would be lost."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | DynamicConv2d) and has_hooks(module)
    ]


def _make_static(network: nn.Module) -> None:
    """Put a plain convolution in the place of layers that are one at inference."""
    layers = {
        name: module
        for name, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, WEConv2d) and not has_hooks(module)
    }
    convs = {layer: layer.static() for layer in layers.values()}
    for name, layer in layers.items():
        put(network, name, convs[layer])
