"""A small residual network whose convolutions are of any kind, as torchvision's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from odconv_det.layers import AttendedNorm, DynamicConv2d
from tests.calibrated import calibrate
from tests.layers.cases import VARIANTS, randomize

__all__ = ["Block", "Network", "network"]

Build = Callable[..., nn.Module]


class Block(nn.Module):
    """A bottleneck; ``reentrant`` says how to checkpoint it, ``None`` not at all."""

    def __init__(
        self,
        build: Build,
        ins: int,
        outs: int,
        stride: int = 1,
        attend: Build | None = None,
        reentrant: bool | None = None,
    ) -> None:
        super().__init__()
        middle = 8
        self.conv1 = build(ins, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = build(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = build(middle, outs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outs)
        if attend is not None:
            self.bn3 = AttendedNorm(self.bn3, attend(outs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or ins != outs:
            conv = nn.Conv2d(ins, outs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outs))
        self.reentrant = reentrant
        if isinstance(self.conv1, DynamicConv2d):
            self.conv1.share_in_block([self.conv1, self.conv2, self.conv3])

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None or not x.requires_grad:
            y = self._residual(x)
        else:
            y = checkpoint(self._residual, x, use_reentrant=self.reentrant)
        return self.relu(y)

    def _residual(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y)) + shortcut


class Network(nn.Module):
    """Stem, three blocks, and a convolution after them."""

    def __init__(self, build: Build, **options: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(
            Block(build, 8, 16, **options),
            Block(build, 16, 16, **options),
            Block(build, 16, 24, 2, **options),
        )
        self.conv2 = nn.Sequential(build(24, 12, 1), nn.BatchNorm2d(12), nn.ReLU6())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layer1(self.bn1(self.conv1(x)).relu())
        return x, self.conv2(x)


def network(variant: str | None, **options: Any) -> Network:
    """In eval mode, well conditioned; every layer of the variant (``None``: static)."""
    torch.manual_seed(0)
    layer, own = (nn.Conv2d, {}) if variant is None else VARIANTS[variant]

    def build(*args: Any, **kwargs: Any) -> nn.Module:
        return layer(*args, **kwargs, **own)

    # DCD's output grows with the square of its input: rounding errors, too.
    return calibrate(randomize(Network(build, **options), gain=0.3), 32)
