"""WeightNet (Ma et al., ECCV 2020, arXiv 2007.11823)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from odconv_det.core.pooling import global_average
from odconv_det.core.precision import full_precision
from odconv_det.functional import Affine, sample_conv2d
from odconv_det.layers.arguments import at_least
from odconv_det.layers.base import DynamicConv2d
from odconv_det.layers.pointwise import Pointwise, normal_init

__all__ = ["WeightNetConv2d"]

MIN_HIDDEN_CHANNELS = 16
REDUCTION = 16


def _hidden(in_channels: int) -> int:
    return max(MIN_HIDDEN_CHANNELS, in_channels // REDUCTION)


class _Activation(nn.Module):
    """The vector from which WeightNet makes a kernel.

    Two fully connected layers with nothing between them, and a sigmoid.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: ``(B, size)``
    """

    def __init__(self, in_channels: int, hidden: int, size: int) -> None:
        super().__init__()
        self.reduce = Pointwise(in_channels, hidden, init=normal_init(1 / in_channels))
        self.fc = Pointwise(hidden, size, init=normal_init(1 / hidden))

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x.device.type):
            pooled = global_average(x, self.reduce.weight.dtype)
            return self.fc(self.reduce(pooled)).sigmoid()


class WeightNetConv2d(DynamicConv2d):
    """Convolution whose kernel a grouped fully connected layer makes from the input.

    With the paper's ``M = G = 2`` that layer has one weight for each element of the
    kernel, so it is a static kernel of which each filter's first half of the input
    channels is scaled by one activation and the second half by another. A filter with
    an odd number of channels (depthwise) is scaled as a whole.

    Args:
        *args: those of ``nn.Conv2d``; see :class:`DynamicConv2d`.
        hidden_channels: width of the reduced descriptor; ``None`` is
            ``max(16, Ci // 16)``. In the networks it is that of the block's input
            (:meth:`share_in_block`).
        **kwargs: those of ``nn.Conv2d``.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: ``(B, Co, Ho, Wo)``
        - ``weight``: ``(Co, Ci/G, kh, kw)``

    Raises:
        ValueError: for an argument out of its range, with its value; for an input of
            another shape.

    Example:
        >>> WeightNetConv2d(64, 128, 3, padding=1)(torch.rand(2, 64, 32, 40)).shape
        torch.Size([2, 128, 32, 40])
    """

    def __init__(
        self, *args: Any, hidden_channels: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.parts = 1 if self.kernel_shape[1] % 2 else 2
        self.hidden_channels = hidden_channels
        if hidden_channels is None:
            self._set_hidden(_hidden(self.in_channels))
        else:
            self._set_hidden(at_least(1, "hidden_channels", hidden_channels))

    def _set_hidden(self, hidden_channels: int) -> None:
        size = self.parts * self.out_channels
        attention = _Activation(self.in_channels, hidden_channels, size)
        # The layer may have been moved, or put in eval mode, before it joins a block.
        self.attention = attention.to(self.weight).train(self.training)

    @staticmethod
    def share_in_block(layers: Sequence[DynamicConv2d]) -> None:
        """Give all layers the hidden width that follows from the block's input.

        Those with ``hidden_channels`` of their own keep it.
        """
        for layer in layers:
            if layer.hidden_channels is None:
                layer._set_hidden(_hidden(layers[0].in_channels))

    def kernels(self, activation: Tensor) -> Tensor:
        """The kernel of each sample, ``(B, Co, Ci/G, kh, kw)``.

        Shape:
            - activation: ``(B, parts * Co)``
        """
        # In parts of the input channels, in whatever layout the weight has.
        halves = self.weight.unflatten(1, (self.parts, -1))
        scales = activation.view(-1, self.out_channels, self.parts, 1, 1, 1)
        return (halves * scales).flatten(2, 3)

    def neutralize_(self) -> float:
        """Every sigmoid is 1/2."""
        self.attention.fc.zero_()
        return 0.5

    def extra_multiply_adds(self, out_size: tuple[int, int]) -> int:
        attention = self.attention
        layers = attention.reduce.multiply_adds + attention.fc.multiply_adds
        return layers + math.prod(self.kernel_shape)

    def convolve(self, x: Tensor, affine: Affine | None) -> Tensor:
        kernels = self.kernels(self.attention(x))
        return sample_conv2d(x, kernels, self.bias, self.geometry, affine)
