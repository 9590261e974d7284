"""Dynamic convolution decomposition, DCD (Li et al., ICLR 2021, arXiv 2103.08756)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from odconv_det.core.pooling import global_average
from odconv_det.core.precision import autocast_input, full_precision
from odconv_det.core.sums import spread
from odconv_det.functional import Affine, Attentions, odconv2d
from odconv_det.layers.arguments import at_least, one_of
from odconv_det.layers.base import DynamicConv2d
from odconv_det.layers.norm import build_norm, pooled_batch_norm
from odconv_det.layers.pointwise import Pointwise, default_init, normal_init

__all__ = ["DCDConv2d"]

Pair = tuple[int, int]
KINDS = ("basic", "bottleneck", "inverted_residual", "classifier")
MIN_WIDTH = 4


class _Widths(NamedTuple):
    """Sizes within the layer.

    ``pool`` is the side of the pooled input, ``latent`` the width of the dynamic
    channel fusion, ``hidden`` that of the attention.
    """

    pool: int
    latent: int
    hidden: int


def _widths(kind: str, ins: int, outs: int, squeeze: int) -> _Widths:
    """The authors' sizes for the convolutions of each kind of block."""
    if kind == "classifier":
        return _Widths(1, 32, 32)
    if kind == "inverted_residual":
        pool, ratio = (2, 8) if ins < outs else (1, 2)
        pooled = ins * pool**2
        latent = min(pooled, outs) // ratio
        while latent**2 > 2 * pooled:
            ratio *= 2
            latent = min(pooled, outs) // ratio
        latent = max(latent, MIN_WIDTH)
    else:
        pool = 2 if kind == "basic" else 1
        pooled = ins * pool**2
        latent = max(math.isqrt(pooled), 1)
    hidden = max(max(pooled, latent**2) // squeeze, MIN_WIDTH)
    return _Widths(pool, latent, hidden)


class _Attention(nn.Module):
    """The filter attention and the dynamic matrix of the channel fusion.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: ``(B, Co)`` and ``(B, latent, latent)``
    """

    def __init__(self, ins: int, outs: int, widths: _Widths, kind: str) -> None:
        super().__init__()
        self.pool, self.latent, hidden = widths
        mobile = kind == "inverted_residual"
        init = normal_init(0.01) if mobile else default_init

        def layer(ins: int, outs: int) -> Pointwise:
            return Pointwise(ins, outs, bias=False, init=init)

        self.reduce = layer(ins * self.pool**2, hidden)
        self.gate = layer(hidden, hidden)
        self.fusion_fc = layer(hidden, self.latent**2)
        self.filter_fc = layer(hidden, outs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.reduce.weight.dtype
        with full_precision(x.device.type):
            if self.pool == 1:
                pooled = global_average(x, dtype)
            else:
                pooled = F.adaptive_avg_pool2d(x, self.pool).flatten(1).to(dtype)
            hidden = self.reduce(pooled)
            hidden = hidden * _one_at_zero(self.gate(hidden))
            fusion = self.fusion_fc(hidden).unflatten(1, (self.latent, -1))
            return _one_at_zero(self.filter_fc(hidden)), fusion


def _one_at_zero(z: Tensor) -> Tensor:
    """Twice the hard sigmoid: 0 to 2."""
    return F.relu6(z + 3) / 3


def _unlaid(weight: Tensor) -> Tensor:
    """A 1x1 kernel that leaves the layout of the output to the input.

    In channels_last it would also give a map in NCHW a gradient in NHWC. For a single
    sample, torch's BatchNorm on a CPU reads that as NCHW, and computes another one.
    """
    return weight.flatten(1)[..., None, None]


class _Fusion(nn.Module):
    """``expand (BN(matrix u) + u)`` with ``u = BN(squeeze x)``, at each position.

    Shape:
        - x: ``(B, Ci, H, W)``, of the output's height and width
        - matrix: ``(B, latent, latent)``
        - output: ``(B, Co, H, W)``
    """

    def __init__(
        self, ins: int, outs: int, latent: int, norm_cfg: Mapping[str, Any] | None
    ) -> None:
        super().__init__()
        self.squeeze = Pointwise(ins, latent, bias=False)
        self.bn1 = build_norm(norm_cfg, latent)
        self.bn2 = build_norm(norm_cfg, latent)
        self.expand = Pointwise(latent, outs, bias=False)

    def forward(self, x: Tensor, matrix: Tensor, affine: Affine | None) -> Tensor:
        squeeze, expand = _unlaid(self.squeeze.weight), _unlaid(self.expand.weight)
        if affine is not None:
            expand = expand * affine.scale.view(-1, 1, 1, 1)
        with full_precision(x.device.type):
            # The norms, and what is between them, in their parameters' precision.
            u = F.conv2d(x, squeeze.to(x.dtype)).to(expand.dtype)
            u = pooled_batch_norm(self.bn1, u)
            fused = (matrix @ u.flatten(2)).view_as(u)
            fused = pooled_batch_norm(self.bn2, fused) + u
            return F.conv2d(fused.to(x.dtype), expand.to(x.dtype))


class DCDConv2d(DynamicConv2d):
    """Static convolution, scaled by filter, plus a dynamic matrix in a small space.

    ``y = filter(x) * (conv(x, weight) + bias) + P (BN(Phi(x) u) + u)`` with
    ``u = BN(Q x)``: Q and P are 1x1 convolutions to and from ``latent`` channels, Phi
    is a matrix of the input. A dynamic layer without a bank.

    Args:
        *args: those of ``nn.Conv2d``; see :class:`DynamicConv2d`.
        kind: whose sizes to take: ``'basic'`` (ResNet-18's 3x3), ``'bottleneck'``
            (ResNet-50), ``'inverted_residual'`` (MobileNetV2's 1x1), ``'classifier'``
            (a 1x1 convolution of pooled features).
        squeeze: how much narrower the attention is than what it sees and gives.
        norm_cfg: the BatchNorms within, ``dict(type='BN')`` or ``dict(type='SyncBN')``
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
        >>> DCDConv2d(64, 128, 3, padding=1)(torch.rand(2, 64, 32, 40)).shape
        torch.Size([2, 128, 32, 40])
    """

    def __init__(
        self,
        *args: Any,
        kind: str = "bottleneck",
        squeeze: int = 16,
        norm_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.kind = one_of(KINDS, "kind", kind)
        ins, outs = self.in_channels, self.out_channels
        widths = _widths(kind, ins, outs, at_least(1, "squeeze", squeeze))
        self.attention = _Attention(ins, outs, widths, kind)
        self.fusion = _Fusion(ins, outs, widths.latent, norm_cfg)

    def neutralize_(self) -> float:
        """A filter attention of 1, and nothing from the dynamic matrix."""
        self.attention.filter_fc.zero_()
        self.fusion.expand.zero_()
        return 1.0

    def extra_multiply_adds(self, out_size: Pair) -> int:
        attention, fusion = self.attention, self.fusion
        layers = sum(layer.multiply_adds for layer in attention.children())
        each = fusion.squeeze.multiply_adds + fusion.expand.multiply_adds
        return layers + (each + attention.latent**2) * math.prod(out_size)

    def convolve(self, x: Tensor, affine: Affine | None) -> Tensor:
        filter_, matrix = self.attention(x)
        x = autocast_input(x)
        attentions = Attentions(None, filter_, None, None)
        bank = self.weight.unsqueeze(0)
        y = odconv2d(x, bank, attentions, None, self.geometry, affine)
        y = y + self.fusion(self._sampled(x), matrix, affine)
        if self.bias is not None:
            scale = filter_ if affine is None else filter_ * affine.scale
            y = y + spread((scale * self.bias)[..., None, None], y)
        return y

    def _sampled(self, x: Tensor) -> Tensor:
        """What the middle of the kernel sees: one value of ``x`` for each output."""
        borders = []
        for size, padding, dilation in zip(
            self.kernel_size, self.padding, self.dilation, strict=True
        ):
            reach = dilation * (size - 1)
            before = padding - reach // 2
            borders = [before, 2 * padding - reach - before, *borders]
        if any(borders):
            x = F.pad(x, borders)
        down, right = self.stride
        return x[..., ::down, ::right]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind!r}"
