"""Efficient channel attention (Wang et al., CVPR 2020, arXiv 1910.03151)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odconv_det.core.pooling import global_average
from odconv_det.core.precision import check_floating, full_precision
from odconv_det.core.sums import spread
from odconv_det.layers.arguments import at_least
from odconv_det.layers.pointwise import default_init

__all__ = ["ECA"]


class ECA(nn.Module):
    """Scale each channel by the sigmoid of a convolution over neighbouring channels.

    Args:
        channels: of the map, ``C``.
        kernel_size: how many neighbours, an odd number; ``None`` lets it grow with the
            logarithm of ``C``, as the paper does.

    Shape:
        - input, output: ``(B, C, H, W)``

    Raises:
        ValueError: if ``channels`` is not an integer of at least 1, or ``kernel_size``
            not an odd one.
    """

    def __init__(self, channels: int, kernel_size: int | None = 3) -> None:
        super().__init__()
        self.channels = at_least(1, "channels", channels)
        if kernel_size is None:
            kernel_size = int(abs(math.log2(self.channels) / 2 + 0.5)) | 1
        if at_least(1, "kernel_size", kernel_size) % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size!r}")
        self.weight = nn.Parameter(torch.empty(1, 1, kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew."""
        default_init(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_floating(x)
        with full_precision(x.device.type):
            pooled = global_average(x, self.weight.dtype).unsqueeze(1)
            reach = self.weight.shape[2] // 2
            scale = F.conv1d(pooled, self.weight, padding=reach).sigmoid()
        return x * spread(scale.flatten(1)[..., None, None], x)

    def neutralize_(self) -> float:
        """Make the attention constant; return its factor."""
        nn.init.zeros_(self.weight)
        return 0.5

    def multiply_adds(self, in_size: tuple[int, int], out_size: tuple[int, int]) -> int:
        """Of one sample; what is done element by element does not count."""
        return self.weight.numel() * self.channels
