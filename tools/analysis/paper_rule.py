"""Multiply-adds as the ODConv paper's tables count them.

The rule is printed nowhere. It was found by fitting the tables, and gives the digits of
every row that has no note. ResNets have their stride in the first 1x1 convolution
(``style='caffe'``), unlike the authors' code. Beyond convolutions, attentions and the
mixing of kernels it counts pooling, scaling, and the building of kernels, for ODConv
also on the shortcuts, which are static in the authors' code and in the parameters.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from odconv_det.complexity import Call
from odconv_det.layers import (
    CBAM,
    ECA,
    SE,
    CGConv2d,
    CondConv2d,
    DCDConv2d,
    DyConv2d,
    ODConv2d,
    WEConv2d,
    WeightNetConv2d,
)
from odconv_det.layers.base import DynamicConv2d

__all__ = ["paper_rule"]

Size = tuple[int, int]


def paper_rule(calls: Sequence[Call]) -> int | None:
    """Multiply-adds of a network; ``None`` where no rule was found.

    Args:
        calls: of :func:`odconv_det.complexity.trace`, for one image.
    """
    if any(isinstance(call.module, DCDConv2d | WEConv2d) for call in calls):
        return None
    total = sum(_static(call) + _dynamic(call) for call in calls)
    layer = next((c.module for c in calls if isinstance(c.module, ODConv2d)), None)
    if layer is not None:
        total += sum(
            _odconv(call.module, _pixels(call.output), layer)
            for call in calls
            if ".downsample." in call.name
        )
    return total


def _static(call: Call) -> int:
    """The convolution, as if it were static."""
    layer = call.module
    if isinstance(layer, DynamicConv2d):
        return math.prod(layer.kernel_shape) * _pixels(call.output)
    return call.multiply_adds if isinstance(layer, nn.Conv2d | nn.Linear) else 0


def _dynamic(call: Call) -> int:
    """What is added to it."""
    for kind, rule in _RULES.items():
        if isinstance(call.module, kind):
            return rule(call)
    return 0


def _odconv_call(call: Call) -> int:
    return _odconv(call.module, _pixels(call.output), call.module)


def _odconv(conv: nn.Module, out_pixels: int, like: ODConv2d) -> int:
    """ODConv with the settings of ``like`` in the place of ``conv``."""
    ins, outs = conv.in_channels, conv.out_channels
    area = math.prod(conv.kernel_size)
    kernel = outs * (ins // conv.groups) * area
    hidden = max(int(ins * like.reduction), 16)
    sizes = {
        "channel": ins,
        "filter": 0 if conv.groups == ins == outs else outs,
        "spatial": area if area > 1 else 0,
        "kernel": like.kernel_num if like.kernel_num > 1 else 0,
    }
    active = {name for name in like.attentions if sizes[name]}
    total = hidden * (ins + sum(sizes[name] for name in active))
    total += ins * out_pixels  # the pool, at the size of the output
    gates = active - {"kernel"}
    total += _products(conv, gates)
    if gates:
        total += kernel
    if like.kernel_num > 1:
        total += (2 * like.kernel_num - 1) * kernel
    return total


def _products(conv: nn.Module, gates: set[str]) -> int:
    """Building one tensor of the attentions: spatial times channel, times filter."""
    total, elements = 0, 0
    if "spatial" in gates:
        elements = math.prod(conv.kernel_size)
    if "channel" in gates:
        # A depthwise convolution has one channel for each filter.
        depthwise = conv.groups == conv.in_channels == conv.out_channels
        channels = conv.in_channels // (1 if depthwise else conv.groups)
        total += elements * channels
        elements = max(elements, 1) * channels
    if "filter" in gates:
        total += elements * conv.out_channels
    return total


def _layer(call: Call) -> int:
    """What the plain rule adds."""
    return call.module.extra_multiply_adds(_size(call.output))


def _dyconv(call: Call) -> int:
    return _layer(call) + call.module.in_channels * _pixels(call.output)


def _condconv(call: Call) -> int:
    routes = any(True for _ in call.module.attention.parameters())
    return _layer(call) + routes * call.input.numel()  # the pool of the block's input


def _cgc(call: Call) -> int:
    return _layer(call) + call.input.numel()  # the pool


def _se(call: Call) -> int:
    return call.multiply_adds + 2 * call.input.numel()  # the pool and the scaling


def _cbam(call: Call) -> int:
    # Its layers run on two pooled vectors; two pools and two scalings.
    return call.multiply_adds + 4 * call.input.numel()


_RULES: dict[type, Callable[[Call], int]] = {
    ODConv2d: _odconv_call,
    DyConv2d: _dyconv,
    CondConv2d: _condconv,
    WeightNetConv2d: _layer,
    CGConv2d: _cgc,
    SE: _se,
    ECA: _se,
    CBAM: _cbam,
}


def _size(shape: torch.Size) -> Size:
    return shape[2], shape[3]


def _pixels(shape: torch.Size) -> int:
    return math.prod(shape[2:])
