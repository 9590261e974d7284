"""Dynamic convolution, attention over kernels (Chen et al., CVPR 2020, 1912.03458)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from odconv_det.core.pooling import global_average
from odconv_det.core.precision import full_precision
from odconv_det.functional import Attentions
from odconv_det.layers.arguments import fraction
from odconv_det.layers.base import DynamicConv2d, TemperedAttention
from odconv_det.layers.pointwise import Pointwise

__all__ = ["DyAttention", "DyConv2d"]


class DyAttention(TemperedAttention):
    """Softmax over the kernels, from the pooled input through two biased layers.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: :class:`~odconv_det.functional.Attentions`, only the kernel's
    """

    def __init__(
        self, in_channels: int, kernel_num: int, reduction: float, temperature: float
    ) -> None:
        super().__init__(temperature)
        hidden = max(int(in_channels * reduction), 1)
        self.fc1 = Pointwise(in_channels, hidden)
        self.fc2 = Pointwise(hidden, kernel_num)

    def forward(self, x: Tensor) -> Attentions:
        with full_precision(x.device.type):
            pooled = global_average(x, self.fc1.weight.dtype)
            logits = self.fc2(self.fc1(pooled).relu()) / self.temperature
            return Attentions(None, None, None, logits.softmax(1))


class DyConv2d(DynamicConv2d):
    """Convolution with a weighted sum of kernels: the weights are a softmax.

    ``y = conv(x, sum_n pi_n(x) weight_n) + bias`` with
    ``pi = softmax((fc2 relu(fc1 pool(x))) / temperature)``.

    Args:
        *args: those of ``nn.Conv2d``; see :class:`DynamicConv2d`.
        kernel_num: kernels in the bank, ``N``.
        reduction: hidden width of the attention relative to ``Ci``, in (0, 1].
        temperature: divides the logits, above 0; training anneals it from 30 to 1.
        **kwargs: those of ``nn.Conv2d``.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: ``(B, Co, Ho, Wo)``
        - ``weight``: ``(N, Co, Ci/G, kh, kw)``

    Raises:
        ValueError: for an argument out of its range, with its value; for an input of
            another shape.

    Example:
        >>> DyConv2d(64, 128, 3, padding=1)(torch.rand(2, 64, 32, 40)).shape
        torch.Size([2, 128, 32, 40])
    """

    mixes_a_bank = True

    def __init__(
        self,
        *args: Any,
        kernel_num: int = 4,
        reduction: float = 1 / 4,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, kernel_num=kernel_num, **kwargs)
        self.reduction = fraction("reduction", reduction)
        self.attention = DyAttention(
            self.in_channels, self.kernel_num, self.reduction, temperature
        )

    def init_kernel(self, kernel: Tensor) -> None:
        """Kaiming uniform (fan_in)."""
        nn.init.kaiming_uniform_(kernel)

    def neutralize_(self) -> float:
        """Uniform weights; they sum to 1."""
        self.attention.fc2.zero_()
        return 1.0

    def fused_attention(self) -> nn.Module:
        return self.attention.requires_grad_(False)

    def extra_multiply_adds(self, out_size: tuple[int, int]) -> int:
        attention = self.attention
        mixing = self.kernel_num * math.prod(self.kernel_shape)
        return attention.fc1.multiply_adds + attention.fc2.multiply_adds + mixing

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reduction={self.reduction:g}"
