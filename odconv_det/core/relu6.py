"""ReLU6 that remembers its output for backward instead of its input."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odconv_det.core.once import differentiable_once

__all__ = ["OutputReLU6"]


class OutputReLU6(nn.ReLU6):
    """``nn.ReLU6`` whose gradient comes from its output.

    The convolution behind it saves that map anyway, while torch's ReLU6 also keeps the
    one before it. Same values, same gradients.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _ReLU6.apply(x)
        return F.relu6(x, self.inplace)


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(0, 6)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor]:
        (y,) = ctx.saved_tensors
        return (torch.ops.aten.hardtanh_backward(grad, y, 0, 6),)
