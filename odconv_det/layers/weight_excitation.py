"""Weight excitation (Quader et al., ECCV 2020): attention of a kernel to itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odconv_det.core.precision import autocast_input, full_precision
from odconv_det.core.sums import with_bias
from odconv_det.functional import Affine
from odconv_det.layers.base import DynamicConv2d
from odconv_det.layers.pointwise import Pointwise, default_init

__all__ = ["WEConv2d"]


class _LocationAttention(nn.Module):
    """Location-based excitation: a sigmoid for each pair of channels.

    Shape:
        - input: a kernel, ``(Co, Ci/G, kh, kw)``
        - output: ``(Co, Ci/G, 1, 1)``
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(width // 16, 1)
        self.fc1 = Pointwise(width, hidden, init=default_init)
        self.fc2 = Pointwise(hidden, width, init=default_init)

    def forward(self, kernel: Tensor) -> Tensor:
        with full_precision(kernel.device.type):
            hidden = self.fc1(kernel.mean((2, 3))).relu()
            return self.fc2(hidden).sigmoid()[..., None, None]


class WEConv2d(DynamicConv2d):
    """Convolution whose kernel is excited by its own values.

    ``y = conv(x, weight * sigmoid(fc2 relu(fc1 mean(weight)))) + bias``, the mean over
    a filter's positions. It does not depend on the input, so that after training it is
    a static convolution: :meth:`static`. This is the paper's location-based excitation;
    ``magnitude`` adds its magnitude-based one.

    Args:
        *args: those of ``nn.Conv2d``; see :class:`DynamicConv2d`.
        magnitude: also stretch large weights, by ``atanh`` relative to 1.1 times the
            largest.
        **kwargs: those of ``nn.Conv2d``.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: ``(B, Co, Ho, Wo)``
        - ``weight``: ``(Co, Ci/G, kh, kw)``

    Raises:
        ValueError: for an argument out of its range, with its value; for an input of
            another shape.

    Example:
        >>> WEConv2d(64, 128, 3, padding=1)(torch.rand(2, 64, 32, 40)).shape
        torch.Size([2, 128, 32, 40])
    """

    def __init__(self, *args: Any, magnitude: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.magnitude = magnitude
        self.attention = _LocationAttention(self.in_channels // self.groups)

    def init_kernel(self, kernel: Tensor) -> None:
        """As ``nn.Conv2d`` does."""
        default_init(kernel)

    def kernel(self) -> Tensor:
        """The excited kernel, ``(Co, Ci/G, kh, kw)``."""
        kernel = self.weight * self.attention(self.weight)
        if self.magnitude:
            # A kernel of zeros stays one.
            largest = 1.1 * kernel.abs().max().clamp(min=torch.finfo(kernel.dtype).tiny)
            kernel = largest * torch.atanh(kernel / largest)
        return kernel

    @torch.no_grad()
    def static(self) -> nn.Conv2d:
        """The static convolution that computes the same."""
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            *self.geometry,
            bias=self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        conv.weight.copy_(self.kernel())
        if self.bias is not None:
            conv.bias.copy_(self.bias)
        return conv.train(self.training)

    def neutralize_(self) -> float:
        """Every sigmoid is 1/2.

        Raises:
            ValueError: with ``magnitude``, which changes every kernel.
        """
        if self.magnitude:
            raise ValueError("magnitude=True has no setting that keeps a static kernel")
        self.attention.fc2.zero_()
        return 0.5

    def extra_multiply_adds(self, out_size: tuple[int, int]) -> int:
        return 0  # static at inference

    def convolve(self, x: Tensor, affine: Affine | None) -> Tensor:
        kernel, bias = self.kernel(), self.bias
        if affine is not None:
            kernel = kernel * affine.scale.view(-1, 1, 1, 1)
            bias = affine.of_bias(bias)
        x = autocast_input(x)
        return with_bias(lambda b: F.conv2d(x, kernel, b, *self.geometry), bias, x)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return f"{text}, magnitude=True" if self.magnitude else text
