"""Replace chosen convolutions of any network in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from odconv_det.layers import AttendedNorm, DynamicConv2d
from odconv_det.placement import blocks_of, choose, conditions, last_norms

__all__ = ["attend", "geometry", "put", "swap"]

Where = Callable[[str, nn.Conv2d], bool] | Mapping[str, Any]


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
    where: Where,
    build: Callable[..., nn.Module],
    **options: Any,
) -> list[str]:
    """Replace every ``nn.Conv2d`` that ``where`` means.

    Each is replaced by ``build(**geometry(conv), **options)`` on the same device, in
    the same dtype and mode; its weights are not carried over
    (:func:`odconv_det.inflate` does that). Subclasses of ``nn.Conv2d`` are another
    operation and stay. A convolution used in two places is replaced by one layer in
    both. What a paper's layers share within a residual block (CondConv its routing,
    WeightNet its width), the chosen ones in a block named ``layer1.0`` share; the first
    of them gives it.

    Args:
        network: changed in place.
        where: a function ``(name, conv) -> bool``, or conditions as
            :func:`odconv_det.placement.choose` takes them, for example
            ``dict(stages=(4,), kernel_sizes=(3,))``.
        build: a layer's class.
        **options: further arguments of the layer.

    Returns:
        The names of the replaced convolutions, in the order of the network.

    Raises:
        ValueError: if no convolution was chosen, if the network itself is a
            convolution, or for a padding that dynamic layers do not have; the network
            is then unchanged.

    Example:
        >>> swap(net, dict(kernel_sizes=(3,)), ODConv2d, kernel_num=4)
        >>> swap(net, lambda name, conv: conv.kernel_size == (3, 3), ODConv2d)
    """
    if isinstance(network, nn.Conv2d):
        raise ValueError("a convolution cannot replace itself: build the layer instead")
    names = _chosen(network, where)
    convs = {name: network.get_submodule(name) for name in names}
    layers = {conv: _like(name, conv, build, options) for name, conv in convs.items()}
    for inside in blocks_of(names).values():
        block = list(dict.fromkeys(layers[convs[name]] for name in inside))
        if all(isinstance(layer, DynamicConv2d) for layer in block):
            block[0].share_in_block(block)
    for name, conv in convs.items():
        put(network, name, layers[conv])
    return names


def _chosen(network: nn.Module, where: Where) -> list[str]:
    if isinstance(where, Mapping):
        return choose(network, **conditions(where))
    if not callable(where) or isinstance(where, type):
        raise ValueError(
            "where must be a function (name, conv) -> bool or a dict of conditions, "
            f"got {where!r}"
        )
    names = [
        name
        for name, module in network.named_modules(remove_duplicate=False)
        if type(module) is nn.Conv2d and where(name, module)
    ]
    if not names:
        raise ValueError("no convolution of the network was chosen to be swapped")
    return names


def _like(
    name: str,
    conv: nn.Conv2d,
    build: Callable[..., nn.Module],
    options: dict[str, Any],
) -> nn.Module:
    try:
        layer = build(**geometry(conv), **options)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    layer.to(device=conv.weight.device, dtype=conv.weight.dtype)
    return layer.train(conv.training)


def attend(
    network: nn.Module, build: Callable[..., nn.Module], **options: Any
) -> list[str]:
    """Put feature attention at the end of every residual block, before the addition.

    The last BatchNorm of each block ``layer<stage>.<number>`` becomes an
    :class:`~odconv_det.layers.AttendedNorm` of it and ``build(channels, **options)``.

    Returns:
        The names of these norms, in the order of the network.

    Raises:
        ValueError: if the network has no such blocks, or has feature attention already.

    Example:
        >>> attend(net, SE, reduction=16)
    """
    norms = {name: network.get_submodule(name) for name in last_norms(network)}
    for name, norm in norms.items():
        if norm.weight is None:
            raise ValueError(
                f"feature attention needs a BatchNorm with weight and bias, and {name} "
                "has none"
            )
    for name, norm in norms.items():
        attention = build(norm.num_features, **options)
        attention.to(device=norm.weight.device, dtype=norm.weight.dtype)
        put(network, name, AttendedNorm(norm, attention).train(norm.training))
    return list(norms)


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Set the submodule of this dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
