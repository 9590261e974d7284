"""Gradients that cannot be differentiated again, and say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["differentiable_once"]

Backward = Callable[..., tuple[Tensor | None, ...]]


def differentiable_once(backward: Backward) -> Backward:
    """Decorate a ``backward``: a second derivative raises, whatever it goes through.

    torch's ``once_differentiable`` raises only if the incoming gradient is itself
    differentiable. Otherwise ``create_graph=True`` gives gradients without a graph,
    and a penalty on them would silently be a constant.
    """

    def wrapped(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            own = backward(ctx, *grads)
        sources = [t for t in (*grads, *ctx.saved_tensors) if t is not None]
        return tuple(None if g is None else _Dead.apply(g, *sources) for g in own)

    return wrapped


class _Dead(torch.autograd.Function):
    """A gradient as it is, whose own gradient raises."""

    @staticmethod
    def forward(grad: Tensor, *sources: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "dynamic convolution can be differentiated once: its gradients have no "
            "gradient (leave out create_graph=True)"
        )
