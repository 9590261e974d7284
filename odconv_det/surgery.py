"""Replace chosen convolutions of any network in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["geometry", "swap"]


def geometry(conv: nn.Conv2d) -> dict[str, Any]:
    """The arguments that build a layer of ``conv``'s geometry.

    Raises:
        ValueError: for a padding that dynamic layers do not have.
    """
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError(
            "only zero padding given in pixels can be swapped, got "
            f"padding_mode={conv.padding_mode!r}, padding={conv.padding!r}"
        )
    return dict(
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
    )


def swap(
    network: nn.Module,
    where: Callable[[str, nn.Conv2d], bool],
    build: Callable[..., nn.Module],
    **options: Any,
) -> list[str]:
    """Replace every ``nn.Conv2d`` for which ``where(name, conv)`` holds.

    Each is replaced by ``build(**geometry(conv), **options)`` on the same device, in
    the same dtype and mode; its weights are not carried over
    (:func:`odconv_det.checkpoints.inflate` does that). Subclasses of ``nn.Conv2d``
    are another operation and stay. A convolution used in two places is replaced by one
    layer in both.

    Returns:
        The names of the replaced convolutions, in the order of the network.

    Raises:
        ValueError: if no convolution was chosen, if the network itself is a
            convolution, or for a padding that dynamic layers do not have; the network
            is then unchanged.

    Example:
        >>> swap(net, lambda name, conv: conv.kernel_size == (3, 3), ODConv2d)
    """
    if not callable(where) or isinstance(where, type):
        raise ValueError(
            f"where must be a function (name, conv) -> bool, got {where!r}"
        )
    if isinstance(network, nn.Conv2d):
        raise ValueError("a convolution cannot replace itself: build the layer instead")
    chosen = {
        name: module
        for name, module in network.named_modules(remove_duplicate=False)
        if type(module) is nn.Conv2d and where(name, module)
    }
    if not chosen:
        raise ValueError("no convolution of the network was chosen to be swapped")
    layers = {conv: _like(conv, build, options) for conv in chosen.values()}
    for name, conv in chosen.items():
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layers[conv])
    return list(chosen)


def _like(
    conv: nn.Conv2d, build: Callable[..., nn.Module], options: dict[str, Any]
) -> nn.Module:
    layer = build(**geometry(conv), **options)
    layer.to(device=conv.weight.device, dtype=conv.weight.dtype)
    return layer.train(conv.training)
