"""Omni-Dimensional Dynamic Convolution (Li, Zhou, Yao, ICLR 2022, arXiv 2209.07947)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.core import accelerate
from odconv_det.core.constant import constant
from odconv_det.core.pooling import global_average
from odconv_det.core.precision import full_precision
from odconv_det.folding import Fold, eval_affine
from odconv_det.functional import Attentions, Geometry, odconv2d
from odconv_det.layers.norm import build_norm, pooled_batch_norm

__all__ = ["ODAttention", "ODConv2d"]

Pair = tuple[int, int]

# The release's lower limit of the attention's width.
MIN_HIDDEN_CHANNELS = 16


class _Pointwise(nn.Module):
    """1x1 convolution of the attention, with the parameters of ``nn.Conv2d``.

    It is no ``nn.Conv2d``, because what looks for those (an ``init_cfg`` with
    ``layer='Conv2d'``, as most of MMDetection's heads and necks have, ``fuse_conv_bn``,
    or :func:`odconv_det.swap`) means the network's convolutions, not these.

    Shape:
        - input: ``(B, in_channels)``
        - output: ``(B, out_channels)``
        - ``weight``: ``(out_channels, in_channels, 1, 1)``
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The release's initialisation: Kaiming normal (fan_out), zero bias."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, bias={self.bias is not None}"


class ODAttention(nn.Module):
    """The attentions of :class:`ODConv2d`, computed from the pooled input.

    Global average pool, a 1x1 convolution to ``max(int(in_channels * reduction), 16)``
    channels, BatchNorm, ReLU, and one biased 1x1 head per attention: sigmoid for
    channel, filter and spatial, softmax for kernel, every logit divided by the
    temperature first. A head whose attention would be constant does not exist: filter
    for a depthwise convolution, spatial for 1x1, kernel for a bank of one.

    Pooling, heads and activations run in the parameters' precision under autocast.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: :class:`~odconv_det.functional.Attentions`
    """

    # In the order of Attentions.
    _HEADS = ("channel_fc", "filter_fc", "spatial_fc", "kernel_fc")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        groups: int,
        *,
        kernel_num: int,
        reduction: float,
        temperature: float,
        norm_cfg: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        hidden = max(int(in_channels * reduction), MIN_HIDDEN_CHANNELS)
        self.temperature = temperature
        self.fc = _Pointwise(in_channels, hidden, bias=False)
        self.bn = build_norm(norm_cfg, hidden)
        self.relu = nn.ReLU(inplace=True)

        def head(size: int, needed: bool = True) -> _Pointwise | None:
            return _Pointwise(hidden, size) if needed else None

        kernel_area = math.prod(kernel_size)
        depthwise = groups == in_channels == out_channels
        self.channel_fc = head(in_channels)
        self.filter_fc = head(out_channels, not depthwise)
        self.spatial_fc = head(kernel_area, kernel_area > 1)
        self.kernel_fc = head(kernel_num, kernel_num > 1)
        # How many values each head gives; 0 for one that does not exist.
        self.sizes = [
            0 if module is None else len(module.bias)
            for module in map(self._modules.get, self._HEADS)
        ]

    def reset_parameters(self) -> None:
        """Draw the trunk and the heads anew; forget the statistics."""
        for module in self.children():
            if isinstance(module, _Pointwise | _BatchNorm):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Attentions:
        with full_precision(x.device.type):
            pooled = global_average(x, self.fc.weight.dtype)
            hidden = self.relu(pooled_batch_norm(self.bn, self.fc(pooled)))
            return _activate(self._logits(hidden) / self.temperature, self.sizes)

    def _logits(self, hidden: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return torch.cat([head(hidden) for head in self.heads()], 1)
        # One product costs less than a call for each head; backward would save the
        # joined weights, though.
        weight, bias = self.joined_heads()
        return F.linear(hidden, weight, bias)

    def heads(self) -> list[_Pointwise]:
        """The heads there are, in the order of their attentions."""
        modules = self._modules  # a module's own lookup would take longer than a head
        return [modules[name] for name in self._HEADS if name in modules]

    def joined_heads(self) -> tuple[Tensor, Tensor]:
        """Weight ``(sum of sizes, hidden)`` and bias of all heads as one layer."""
        parameters = [head._parameters for head in self.heads()]
        weight = torch.cat([own["weight"] for own in parameters]).flatten(1)
        return weight, torch.cat([own["bias"] for own in parameters])

    def fused(self) -> FusedODAttention:
        """The same attentions, for inference only, in fewer steps."""
        return FusedODAttention(self)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"


class FusedODAttention(nn.Module):
    """:class:`ODAttention` for inference: two matrix products, BatchNorm folded.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: :class:`~odconv_det.functional.Attentions`
    """

    def __init__(self, attention: ODAttention) -> None:
        super().__init__()
        scale, shift = eval_affine(attention.bn)
        weight, bias = attention.joined_heads()
        temperature = attention.temperature
        self.sizes = attention.sizes
        self.trunk_weight = constant(attention.fc.weight.flatten(1) * scale[:, None])
        self.trunk_bias = constant(shift)
        self.head_weight = constant(weight / temperature)
        self.head_bias = constant(bias / temperature)
        self.eval()

    def forward(self, x: Tensor) -> Attentions:
        with full_precision(x.device.type):
            pooled = accelerate.pool(x, self.trunk_weight.dtype)
            trunk = self.trunk_weight, self.trunk_bias
            head = self.head_weight, self.head_bias
            values = accelerate.attend(pooled, *trunk, *head, self.sizes)
            if values is not None:
                return Attentions(*values)
            logits = F.linear(F.linear(pooled, *trunk).relu_(), *head)
            return _activate(logits, self.sizes)


def _activate(logits: Tensor, sizes: list[int]) -> Attentions:
    """Attentions from the logits of all heads, ``(B, sum of sizes)``."""
    *gates, kernels = sizes
    kernel = None
    if kernels:
        logits, kernel = logits.split_with_sizes([sum(gates), kernels], 1)
        kernel = kernel.softmax(1)
    parts = logits.sigmoid().split_with_sizes(gates, 1)
    channel, filter_, spatial = (
        part if size else None for part, size in zip(parts, gates, strict=True)
    )
    return Attentions(channel, filter_, spatial, kernel)


class ODConv2d(nn.Module):
    """Convolution whose kernel is computed for each sample by four attentions.

    ``y = filter * conv(channel * x, spatial * sum_n kernel_n weight_n) + bias``, where
    the attentions come from :class:`ODAttention`. A drop-in replacement of
    ``nn.Conv2d``: the positional arguments are the same. State-dict names and shapes
    are those of the authors' release (which has no bias: pass ``bias=False`` to load
    its layers).

    Args:
        in_channels: channels of the input, ``Ci``.
        out_channels: channels of the output, ``Co``.
        kernel_size: an int or a ``(kh, kw)`` pair.
        stride: an int or a pair.
        padding: zeros added on each side, an int or a pair.
        dilation: an int or a pair.
        groups: divides ``Ci`` and ``Co``; ``groups == Ci == Co`` is depthwise.
        bias: adds a static bias after the filter attention.
        kernel_num: kernels in the bank, ``N`` ("1x" and "4x" in the paper are 1 and 4).
        reduction: hidden width of the attention relative to ``Ci``, in (0, 1]; the
            width is at least 16.
        temperature: divides every attention logit, above 0; see
            :func:`odconv_det.set_temperature`.
        norm_cfg: the attention's BatchNorm, ``dict(type='BN')`` or
            ``dict(type='SyncBN')`` with ``eps``, ``momentum``, ``requires_grad``.
        padding_mode: ``'zeros'``; others are not supported.

    Shape:
        - input: ``(B, Ci, H, W)``; ``B`` may be 0, and 1 in training
        - output: ``(B, Co, Ho, Wo)``
        - ``weight``: ``(N, Co, Ci/G, kh, kw)``

    Raises:
        ValueError: for an argument out of its range, with its value; for an input of
            another shape.

    Example:
        >>> layer = ODConv2d(64, 128, 3, padding=1, kernel_num=4)
        >>> layer(torch.rand(2, 64, 32, 40)).shape
        torch.Size([2, 128, 32, 40])
    """

    # What ConvModule of mmcv reads from a convolution besides its geometry.
    transposed = False
    output_padding = (0, 0)
    # Set by fold_batch_norms: the BatchNorm to apply together with the convolution.
    fold: Fold | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        kernel_num: int = 4,
        reduction: float = 1 / 16,
        temperature: float = 1.0,
        norm_cfg: Mapping[str, Any] | None = None,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}")
        self.in_channels = _at_least(1, "in_channels", in_channels)
        self.out_channels = _at_least(1, "out_channels", out_channels)
        self.kernel_size = _at_least_pair(1, "kernel_size", kernel_size)
        self.stride = _at_least_pair(1, "stride", stride)
        self.padding = _at_least_pair(0, "padding", padding)
        self.dilation = _at_least_pair(1, "dilation", dilation)
        self.groups = _at_least(1, "groups", groups)
        self.kernel_num = _at_least(1, "kernel_num", kernel_num)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}"
            )
        if not (isinstance(reduction, int | float) and 0 < reduction <= 1):
            raise ValueError(f"reduction must be in (0, 1], got {reduction!r}")
        self.reduction = float(reduction)
        self.attention = ODAttention(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.groups,
            kernel_num=self.kernel_num,
            reduction=self.reduction,
            temperature=checked_temperature(temperature),
            norm_cfg=norm_cfg,
        )
        self.weight = nn.Parameter(
            torch.empty(
                self.kernel_num,
                self.out_channels,
                self.in_channels // self.groups,
                *self.kernel_size,
            )
        )
        self.bias = nn.Parameter(torch.zeros(self.out_channels)) if bias else None
        self.geometry = Geometry(self.stride, self.padding, self.dilation, self.groups)
        self._reset_bank()

    def _reset_bank(self) -> None:
        for kernel in self.weight:
            # One by one: the fan of the 5-D bank as a whole would be wrong.
            nn.init.kaiming_normal_(kernel, mode="fan_out")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def reset_parameters(self) -> None:
        """Draw every parameter anew as the release does."""
        self._reset_bank()
        self.attention.reset_parameters()

    def init_weights(self) -> None:
        """OpenMMLab's name for it; without one, mmcv would re-initialise the bank."""
        self.reset_parameters()

    @torch.no_grad()
    def inflate_(
        self,
        kernel: Tensor,
        *,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Become the static convolution with ``kernel (Co, Ci/G, kh, kw)``.

        Zeroed heads make every sigmoid 1/2 and the kernel attention uniform, so a bank
        of ``2^m * kernel`` with m sigmoids computes the same function at any
        temperature. Equal kernels would receive equal gradients for ever: ``noise``
        (relative to the kernel's standard deviation) tells them apart, and because it
        sums to zero over the bank the function still does not change.

        Raises:
            ValueError: if ``kernel`` is of another shape.
        """
        if kernel.shape != self.weight.shape[1:]:
            raise ValueError(
                f"kernel must have shape {tuple(self.weight.shape[1:])}, "
                f"got {tuple(kernel.shape)}"
            )
        heads = self.attention.heads()
        for head in heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        sigmoids = sum(head is not self.attention.kernel_fc for head in heads)
        # Drawn on the CPU: the same start on every device.
        spread = torch.randn(self.weight.shape, generator=generator).to(self.weight)
        spread -= spread.mean(0)
        scale = noise * kernel.std(correction=0)
        self.weight.copy_(2**sigmoids * (kernel + scale * spread))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected input of shape (B, {self.in_channels}, H, W), "
                f"got {tuple(x.shape)}"
            )
        affine = None if self.fold is None else self.fold.affine(self)
        return odconv2d(
            x, self.weight, self.attention(x), self.bias, self.geometry, affine
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ODConv2d:
        # channels_last exists for 4-D tensors only, and `.to(memory_format=...)` raises
        # on a 5-D parameter: hand the bank over as N * Co filters.
        def on_filters(tensor: Tensor) -> Tensor:
            if tensor.dim() != 5:
                return fn(tensor)
            return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])

        return super()._apply(on_filters, recurse)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={self.bias is not None}, "
            f"kernel_num={self.kernel_num}, reduction={self.reduction:g}"
        )


def checked_temperature(value: float) -> float:
    """``value`` if it is a finite number above 0, else ``ValueError``."""
    if not (isinstance(value, int | float) and value > 0 and math.isfinite(value)):
        raise ValueError(f"temperature must be above 0 and finite, got {value!r}")
    return float(value)


def _at_least(minimum: int, name: str, value: SupportsIndex) -> int:
    if not _is_int(value) or value < minimum:
        raise ValueError(f"{name} must be an int of at least {minimum}, got {value!r}")
    return int(value)


def _at_least_pair(minimum: int, name: str, value: object) -> Pair:
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(_is_int(v) and v >= minimum for v in pair):
        raise ValueError(
            f"{name} must be an int or a pair of ints of at least {minimum}, "
            f"got {value!r}"
        )
    return int(pair[0]), int(pair[1])


def _is_int(value: object) -> bool:
    # NumPy's integers count as well, True and False do not.
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)
