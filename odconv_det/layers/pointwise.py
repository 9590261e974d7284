"""The fully connected layers of attentions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Pointwise", "default_init", "kaiming_init", "normal_init"]

Init = Callable[[Tensor], object]


def kaiming_init(weight: Tensor) -> None:
    """Kaiming normal (fan_out)."""
    nn.init.kaiming_normal_(weight, mode="fan_out")


def default_init(weight: Tensor) -> None:
    """What ``nn.Conv2d`` and ``nn.Linear`` do."""
    nn.init.kaiming_uniform_(weight, a=5**0.5)


def normal_init(std: float) -> Init:
    """Normal with this standard deviation."""
    return partial(nn.init.normal_, std=std)


class Pointwise(nn.Module):
    """1x1 convolution of an attention, with the parameters of ``nn.Conv2d``.

    It is no ``nn.Conv2d``, because what looks for those (an ``init_cfg`` with
    ``layer='Conv2d'``, as most of MMDetection's heads and necks have, ``fuse_conv_bn``,
    or :func:`odconv_det.swap`) means the network's convolutions, not these.

    Shape:
        - input: ``(B, in_channels)``
        - output: ``(B, out_channels)``
        - ``weight``: ``(out_channels, in_channels, 1, 1)``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        init: Init = kaiming_init,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self._init = init
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew; the bias is zero."""
        self._init(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def zero_(self) -> None:
        """Give zero, whatever comes in."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def multiply_adds(self) -> int:
        """Of one sample."""
        return self.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, bias={self.bias is not None}"
