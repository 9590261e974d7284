"""Gradients that are sums over a whole map, summed in float32.

Autograd gives the sum over a map in the map's precision, and float16 ends at 65504: the
gradient of a bias, over the 134,000 positions of two large maps and of a loss that a
gradient scaler has multiplied, would be infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odconv_det.core.per_sample import own

__all__ = ["biased", "spread", "summed"]


def summed(
    grad: Tensor, dims: Sequence[int], dtype: torch.dtype, *, keepdim: bool = False
) -> Tensor:
    """The sum over ``dims`` in ``dtype``, added up in float32, or float64 if it is."""
    exact = torch.promote_types(grad.dtype, torch.float32)
    return grad.sum(dims, keepdim, dtype=exact).to(dtype)


def biased(y: Tensor, bias: Tensor) -> Tensor:
    """``y``, to which a detached ``bias`` was added, with the gradient of ``bias``.

    Shape:
        - y, output: ``(B, C, H, W)``
        - bias: ``(C,)``
    """
    return _Biased.apply(y, bias)


def spread(value: Tensor, x: Tensor) -> Tensor:
    """``value`` in the precision of ``x``, and expanded to its shape.

    Shape:
        - value: that of ``x``, but 1 in some dimensions
        - output: that of ``x``, without memory of its own
    """
    return _Spread.apply(value, x.detach())  # of which it only takes the shape


class _Biased(torch.autograd.Function):
    @staticmethod
    def forward(y: Tensor, bias: Tensor) -> Tensor:
        return own(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[1].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        frozen = not ctx.needs_input_grad[1]
        return grad, None if frozen else summed(grad, (0, 2, 3), ctx.dtype)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, x: Tensor) -> Tensor:
        return value.to(x.dtype).expand_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        value = inputs[0]
        ctx.dtype = value.dtype
        ctx.dims = [dim for dim, size in enumerate(value.shape) if size == 1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return summed(grad, ctx.dims, ctx.dtype, keepdim=True), None
