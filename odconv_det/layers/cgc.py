"""Context-gated convolution (Lin et al., ECCV 2020, arXiv 1910.05577)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from odconv_det.core.precision import full_precision
from odconv_det.functional import Affine, sample_conv2d
from odconv_det.layers.base import DynamicConv2d
from odconv_det.layers.norm import build_norm, pooled_batch_norm
from odconv_det.layers.pointwise import Pointwise, default_init

__all__ = ["CGConv2d"]

CHANNELS_IN_GROUP = 16

Pair = tuple[int, int]


def _groups(in_channels: int, out_channels: int) -> int:
    """In how many groups channels interact: of 16 channels, where that divides both."""
    wanted = max(in_channels // CHANNELS_IN_GROUP, 1)
    divisors = range(wanted, 0, -1)
    return next(n for n in divisors if not in_channels % n and not out_channels % n)


class _Gate(nn.Module):
    """The logits of the gate: one part by input channel, one by output channel.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: ``(B, Ci, kh * kw)`` and ``(B, Co, kh * kw)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        norm_cfg: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        self.size = kernel_size
        area = math.prod(kernel_size)
        hidden = area // 2 + 1
        self.groups = _groups(in_channels, out_channels)

        def layer(ins: int, outs: int) -> Pointwise:
            return Pointwise(ins, outs, bias=False, init=default_init)

        self.encode = layer(area, hidden)
        self.channel_bn = build_norm(norm_cfg, in_channels)
        self.channel_fc = layer(hidden, area)
        self.interact_bn = build_norm(norm_cfg, in_channels)
        self.interact = layer(in_channels // self.groups, out_channels // self.groups)
        self.filter_bn = build_norm(norm_cfg, out_channels)
        self.filter_fc = layer(hidden, area)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(x.device.type):
            pooled = F.adaptive_avg_pool2d(x, self.size).flatten(2)
            encoded = self.encode(
                pooled.to(self.encode.weight.dtype)
            )  # (B, Ci, hidden)
            channel = pooled_batch_norm(self.channel_bn, encoded).relu()
            mixed = self._mix(pooled_batch_norm(self.interact_bn, encoded).relu())
            filter_ = pooled_batch_norm(self.filter_bn, mixed).relu()
            return self.channel_fc(channel), self.filter_fc(filter_)

    def _mix(self, z: Tensor) -> Tensor:
        """``(B, Ci, hidden)`` to ``(B, Co, hidden)``: one matrix for every group."""
        groups = z.unflatten(1, (self.groups, -1)).transpose(2, 3)
        mixed = self.interact(groups).transpose(2, 3).flatten(1, 2)
        # torch.compile expects other strides of BatchNorm than it then has otherwise.
        return mixed.contiguous()

    def multiply_adds(self) -> int:
        """Of one sample."""
        hidden, area = self.encode.weight.shape[:2]
        ins, outs = (len(bn.weight) for bn in (self.channel_bn, self.filter_bn))
        layers = 2 * ins * hidden * area + outs * hidden * area
        return layers + self.interact.multiply_adds * self.groups * hidden


class CGConv2d(DynamicConv2d):
    """Convolution whose kernel is gated by the context of the input.

    ``y = conv(x, weight * sigmoid(g_in[c] + g_out[o])) + bias``, where both parts have
    a value for each position in the kernel. They come from the input pooled to the
    kernel's size, encoded to about half as many values for each channel.

    Args:
        *args: those of ``nn.Conv2d``; see :class:`DynamicConv2d`.
        norm_cfg: the gate's BatchNorms, ``dict(type='BN')`` or ``dict(type='SyncBN')``
            with ``eps``, ``momentum``, ``requires_grad``.
        **kwargs: those of ``nn.Conv2d``.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: ``(B, Co, Ho, Wo)``
        - ``weight``: ``(Co, Ci/G, kh, kw)``

    Raises:
        ValueError: for an argument out of its range, with its value; for an input of
            another shape.

    Example:
        >>> CGConv2d(64, 128, 3, padding=1)(torch.rand(2, 64, 32, 40)).shape
        torch.Size([2, 128, 32, 40])
    """

    def __init__(
        self, *args: Any, norm_cfg: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.attention = _Gate(
            self.in_channels, self.out_channels, self.kernel_size, norm_cfg
        )

    def kernels(self, channel: Tensor, filter_: Tensor) -> Tensor:
        """The kernel of each sample, ``(B, Co, Ci/G, kh, kw)``, for the gate's logits.

        Shape:
            - channel: ``(B, Ci, kh * kw)``
            - filter_: ``(B, Co, kh * kw)``
        """
        ins = channel.unflatten(1, (self.groups, 1, -1))
        outs = filter_.unflatten(1, (self.groups, -1, 1))
        gate = (ins + outs).sigmoid()  # (B, G, Co/G, Ci/G, kh * kw)
        return self.weight * gate.flatten(1, 2).unflatten(3, self.kernel_size)

    def neutralize_(self) -> float:
        """Every sigmoid is 1/2."""
        self.attention.channel_fc.zero_()
        self.attention.filter_fc.zero_()
        return 0.5

    def extra_multiply_adds(self, out_size: Pair) -> int:
        return self.attention.multiply_adds() + math.prod(self.kernel_shape)

    def convolve(self, x: Tensor, affine: Affine | None) -> Tensor:
        kernels = self.kernels(*self.attention(x))
        return sample_conv2d(x, kernels, self.bias, self.geometry, affine)
