"""Squeeze-and-excitation (Hu, Shen, Sun, CVPR 2018, arXiv 1709.01507)."""

from __future__ import annotations

from torch import Tensor, nn

from odconv_det.core.pooling import global_average
from odconv_det.core.precision import check_floating, full_precision
from odconv_det.core.sums import spread
from odconv_det.layers.arguments import at_least
from odconv_det.layers.pointwise import Pointwise, default_init

__all__ = ["SE"]


class SE(nn.Module):
    """Scale each channel by ``sigmoid(fc2 relu(fc1 pool(x)))``.

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

    def forward(self, x: Tensor) -> Tensor:
        check_floating(x)
        with full_precision(x.device.type):
            pooled = global_average(x, self.fc1.weight.dtype)
            scale = self.fc2(self.fc1(pooled).relu()).sigmoid()
        return x * spread(scale[..., None, None], x)

    def neutralize_(self) -> float:
        """Make the attention constant; return its factor."""
        self.fc2.zero_()
        return 0.5

    def multiply_adds(self, in_size: tuple[int, int], out_size: tuple[int, int]) -> int:
        """Of one sample; what is done element by element does not count."""
        return self.fc1.multiply_adds + self.fc2.multiply_adds
