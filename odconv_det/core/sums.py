"""Gradients that are sums over a whole map, summed in float32.

Autograd gives the sum over a map in the map's precision, and float16 ends at 65504: the
gradient of a bias, over the 134,000 positions of two large maps and of a loss that a
gradient scaler has multiplied, would be infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from odconv_det.core.per_sample import own

__all__ = ["spread", "summed", "with_bias"]


def summed(
    grad: Tensor, dims: Sequence[int], dtype: torch.dtype, *, keepdim: bool = False
) -> Tensor:
    """The sum over ``dims`` in ``dtype``, added up in float32, or float64 if it is."""
    exact = torch.promote_types(grad.dtype, torch.float32)
    return grad.sum(dims, keepdim, dtype=exact).to(dtype)


def with_bias(
    convolve: Callable[[Tensor | None], Tensor], bias: Tensor | None, x: Tensor
) -> Tensor:
    """``convolve(bias)``, in the precision of ``x``.

    Shape:
        - bias: ``(C,)``
        - x: ``(B, Ci, H, W)``
        - output: ``(B, C, Ho, Wo)``
    """
    if bias is None or not _in_half(x, bias):
        return convolve(bias)
    return _Biased.apply(convolve(bias.detach()), bias)


def spread(value: Tensor, x: Tensor) -> Tensor:
    """``value`` in the precision of ``x``, to be multiplied with it or added to it.

    Shape:
        - value: that of ``x``, but 1 in some dimensions
        - output: that of ``x``, without memory of its own
    """
    if _in_half(x, value):
        return _Spread.apply(value, x)
    return value.to(x.dtype).expand_as(x)


def _in_half(x: Tensor, value: Tensor) -> bool:
    """Whether autograd would sum the gradient of ``value`` in half precision.

    Everywhere else torch's own operations serve, which all its tools know.
    """
    half = torch.finfo(x.dtype).bits < 32
    return half and value.requires_grad and torch.is_grad_enabled()


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
