"""Every layer in several variants and geometries, with random parameters."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.layers import (
    CGConv2d,
    CondConv2d,
    DCDConv2d,
    DyConv2d,
    ODConv2d,
    WEConv2d,
    WeightNetConv2d,
)
from odconv_det.layers.pointwise import Pointwise

__all__ = ["GEOMETRIES", "LAYERS", "VARIANTS", "build", "image", "make", "randomize"]


class Variant(NamedTuple):
    """A layer with its own arguments."""

    layer: type[nn.Module]
    options: dict[str, Any]


# One of each layer, and
LAYERS = {
    "ODConv2d": Variant(ODConv2d, dict(kernel_num=4)),
    "CondConv2d": Variant(CondConv2d, dict(kernel_num=3)),
    "DyConv2d": Variant(DyConv2d, dict(kernel_num=4)),
    "DCDConv2d": Variant(DCDConv2d, dict(kind="bottleneck")),
    "CGConv2d": Variant(CGConv2d, dict()),
    "WeightNetConv2d": Variant(WeightNetConv2d, dict()),
    "WEConv2d": Variant(WEConv2d, dict()),
}
# their other ways of working.
VARIANTS = {
    **LAYERS,
    "ODConv2d 1x": Variant(ODConv2d, dict(kernel_num=1)),
    "ODConv2d without channel": Variant(
        ODConv2d, dict(kernel_num=3, attentions=("filter", "spatial", "kernel"))
    ),
    "DCDConv2d basic": Variant(DCDConv2d, dict(kind="basic")),
    "DCDConv2d mobile": Variant(DCDConv2d, dict(kind="inverted_residual")),
    "DCDConv2d classifier": Variant(DCDConv2d, dict(kind="classifier")),
    "WEConv2d magnitude": Variant(WEConv2d, dict(magnitude=True)),
}

GEOMETRIES = {
    "3x3": dict(kernel_size=3, padding=1),
    "1x1": dict(kernel_size=1),
    "strided": dict(kernel_size=3, stride=2, padding=1),
    "strided 1x1": dict(kernel_size=1, stride=2, bias=False),
    "stride pair": dict(kernel_size=3, stride=(2, 1), padding=(1, 0)),
    "dilated": dict(kernel_size=3, padding=2, dilation=2),
    "dilation pair": dict(kernel_size=3, padding=(0, 3), dilation=(1, 2)),
    "grouped": dict(kernel_size=3, padding=1, groups=4),
    "depthwise": dict(out_channels=8, kernel_size=3, padding=1, groups=8),
    "rectangular kernel": dict(kernel_size=(1, 3), padding=(0, 1)),
    "even kernel": dict(kernel_size=(2, 4), padding=1),
    "5x5": dict(kernel_size=5, padding=2, bias=False),
}


def build(variant: str, **arguments: Any) -> nn.Module:
    """From 8 to 12 channels if not otherwise asked for, as the layer initialises it."""
    layer, options = VARIANTS[variant]
    channels = dict(in_channels=8, out_channels=12)
    torch.manual_seed(0)
    return layer(**{**channels, **options, **arguments})


def make(variant: str, **arguments: Any) -> nn.Module:
    """:func:`build` with random parameters."""
    return randomize(build(variant, **arguments))


@torch.no_grad()
def randomize(network: nn.Module, gain: float = 1.0) -> nn.Module:
    """Attentions that depend on the input, biases and norms away from 0 and 1."""
    for module in network.modules():
        if isinstance(module, Pointwise):
            module.weight.normal_(std=gain * module.weight.shape[1] ** -0.5)
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    for parameter in network.parameters():
        if parameter.dim() == 1:
            parameter.uniform_(0.5, 1.5)
    return network


def image(batch: int = 2, height: int = 7, width: int = 9, **options: Any) -> Tensor:
    """Eight channels whose means differ from sample to sample."""
    generator = torch.Generator().manual_seed(1)
    details = torch.randn(batch, 8, height, width, generator=generator)
    means = torch.randn(batch, 8, 1, 1, generator=generator)
    return (details + means).to(**options)
