"""Convolutional block attention module (Woo et al., ECCV 2018, arXiv 1807.06521)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odconv_det.core.pooling import global_average
from odconv_det.core.precision import check_floating, full_precision
from odconv_det.core.sums import spread
from odconv_det.layers.arguments import at_least
from odconv_det.layers.pointwise import Pointwise, default_init, kaiming_init

__all__ = ["CBAM"]

KERNEL_SIZE = 7


class CBAM(nn.Module):
    """Scale each channel, and then each position.

    ``x1 = x * sigmoid(f(mean x) + f(max x))`` over the positions, with
    ``f = fc2 relu(fc1 .)``; ``y = x1 * sigmoid(conv([max x1, mean x1]))`` over the
    channels, with a 7x7 convolution. Neither has a bias.

    So it is in the paper, and in the parameter counts of the ODConv paper's tables. The
    authors' code (Jongchan/attention-module) has biases in the two layers and a
    BatchNorm behind the 7x7 convolution: its weights do not fit.

    Args:
        channels: of the map, ``C``.
        reduction: ``C`` over the hidden width.

    Shape:
        - input, output: ``(B, C, H, W)``

    Raises:
        ValueError: if ``channels`` or ``reduction`` is not an integer of at least 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        channels = at_least(1, "channels", channels)
        hidden = max(channels // at_least(1, "reduction", reduction), 1)
        self.fc1 = Pointwise(channels, hidden, bias=False, init=default_init)
        self.fc2 = Pointwise(hidden, channels, bias=False, init=default_init)
        self.spatial = nn.Parameter(torch.empty(1, 2, KERNEL_SIZE, KERNEL_SIZE))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the spatial kernel anew; the layers have their own."""
        kaiming_init(self.spatial)

    def forward(self, x: Tensor) -> Tensor:
        check_floating(x)
        dtype = self.spatial.dtype
        with full_precision(x.device.type):
            logits = self._mlp(global_average(x, dtype)) + self._mlp(
                x.amax((2, 3)).to(dtype)
            )
            x = x * spread(logits.sigmoid()[..., None, None], x)
            pair = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
            logits = F.conv2d(pair.to(dtype), self.spatial, padding=KERNEL_SIZE // 2)
            return x * spread(logits.sigmoid(), x)

    def _mlp(self, pooled: Tensor) -> Tensor:
        return self.fc2(self.fc1(pooled).relu())

    def neutralize_(self) -> float:
        """Make the attention constant; return its factor."""
        self.fc2.zero_()
        nn.init.zeros_(self.spatial)
        return 0.25

    def multiply_adds(self, in_size: tuple[int, int], out_size: tuple[int, int]) -> int:
        """Of one sample; what is done element by element does not count."""
        layers = 2 * (self.fc1.multiply_adds + self.fc2.multiply_adds)
        return layers + self.spatial.numel() * math.prod(in_size)
