"""Omni-Dimensional Dynamic Convolution (Li, Zhou, Yao, ICLR 2022, arXiv 2209.07947)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odconv_det.core import accelerate
from odconv_det.core.constant import constant
from odconv_det.core.pooling import global_average
from odconv_det.core.precision import full_precision
from odconv_det.folding import eval_affine
from odconv_det.functional import Attentions
from odconv_det.layers.arguments import fraction
from odconv_det.layers.base import DynamicConv2d, TemperedAttention
from odconv_det.layers.norm import build_norm, pooled_batch_norm
from odconv_det.layers.pointwise import Pointwise

__all__ = ["ODAttention", "ODConv2d"]

Pair = tuple[int, int]

# The release's lower limit of the attention's width.
MIN_HIDDEN_CHANNELS = 16
ATTENTIONS = ("channel", "filter", "spatial", "kernel")


class ODAttention(TemperedAttention):
    """The attentions of :class:`ODConv2d`, computed from the pooled input.

    Global average pool, a 1x1 convolution to ``max(int(in_channels * reduction), 16)``
    channels, BatchNorm, ReLU, and one biased 1x1 head per attention: sigmoid for
    channel, filter and spatial, softmax for kernel, every logit divided by the
    temperature first. A head whose attention would be constant does not exist: filter
    for a depthwise convolution, spatial for 1x1, kernel for a bank of one, and those
    not named in ``attentions``.

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
        attentions: Sequence[str],
        norm_cfg: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(temperature)
        hidden = max(int(in_channels * reduction), MIN_HIDDEN_CHANNELS)
        self.fc = Pointwise(in_channels, hidden, bias=False)
        self.bn = build_norm(norm_cfg, hidden)
        self.relu = nn.ReLU(inplace=True)

        def head(name: str, size: int, needed: bool = True) -> Pointwise | None:
            return Pointwise(hidden, size) if needed and name in attentions else None

        kernel_area = math.prod(kernel_size)
        depthwise = groups == in_channels == out_channels
        self.channel_fc = head("channel", in_channels)
        self.filter_fc = head("filter", out_channels, not depthwise)
        self.spatial_fc = head("spatial", kernel_area, kernel_area > 1)
        self.kernel_fc = head("kernel", kernel_num, kernel_num > 1)
        if not self.heads():
            raise ValueError(
                f"none of attentions={tuple(attentions)} changes with the input for "
                f"kernel_size={kernel_size}, groups={groups}, kernel_num={kernel_num}: "
                "leave this convolution static, for example by where=dict(kernel_sizes="
                "(3,))"
            )
        # How many values each head gives; 0 for one that does not exist.
        self.sizes = [
            0 if module is None else len(module.bias)
            for module in map(self._modules.get, self._HEADS)
        ]

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

    def heads(self) -> list[Pointwise]:
        """The heads there are, in the order of their attentions."""
        modules = self._modules  # a module's own lookup would take longer than a head
        return [modules[name] for name in self._HEADS if name in modules]

    def joined_heads(self) -> tuple[Tensor, Tensor]:
        """Weight ``(sum of sizes, hidden)`` and bias of all heads as one layer."""
        heads = self.heads()
        weight = torch.cat([head.weight for head in heads]).flatten(1)
        return weight, torch.cat([head.bias for head in heads])


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


class ODConv2d(DynamicConv2d):
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
        attentions: which of the four there are; the paper's ablation leaves some out. A
            bank of several kernels needs ``'kernel'``.
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

    mixes_a_bank = True

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
        attentions: Sequence[str] = ATTENTIONS,
        norm_cfg: Mapping[str, Any] | None = None,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            kernel_num=kernel_num,
            padding_mode=padding_mode,
        )
        self.reduction = fraction("reduction", reduction)
        self.attentions = self._checked(attentions)
        self.attention = ODAttention(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.groups,
            kernel_num=self.kernel_num,
            reduction=self.reduction,
            temperature=temperature,
            attentions=self.attentions,
            norm_cfg=norm_cfg,
        )

    def _checked(self, attentions: Sequence[str]) -> tuple[str, ...]:
        if isinstance(attentions, str) or not set(attentions) <= set(ATTENTIONS):
            raise ValueError(
                f"attentions must be some of {ATTENTIONS}, got {attentions!r}"
            )
        if self.kernel_num > 1 and "kernel" not in attentions:
            raise ValueError(
                f"kernel_num={self.kernel_num} needs the attention 'kernel', "
                f"got attentions={attentions!r}"
            )
        return tuple(name for name in ATTENTIONS if name in attentions)

    def neutralize_(self) -> float:
        """Every sigmoid 1/2 and the kernel attention uniform, at any temperature."""
        heads = self.attention.heads()
        for head in heads:
            head.zero_()
        return 0.5 ** sum(head is not self.attention.kernel_fc for head in heads)

    def fused_attention(self) -> FusedODAttention:
        return FusedODAttention(self.attention)

    def extra_multiply_adds(self, out_size: Pair) -> int:
        attention = self.attention
        layers = [attention.fc, *attention.heads()]
        # Kernels are summed where there are several, and scaled by a spatial attention.
        passes = self.kernel_num * (attention.kernel_fc is not None)
        passes += attention.spatial_fc is not None
        kernel = passes * math.prod(self.kernel_shape)
        return sum(layer.multiply_adds for layer in layers) + kernel

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, reduction={self.reduction:g}"
        if self.attentions != ATTENTIONS:
            text += f", attentions={self.attentions}"
        return text
