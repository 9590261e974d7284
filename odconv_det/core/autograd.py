"""The dynamic convolution as one differentiable function that saves its inputs only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odconv_det.core import per_sample
from odconv_det.core.dispatch import Plan, choose
from odconv_det.core.forward import case_of, forward, sample_kernels
from odconv_det.core.kernels import Scales, gradients
from odconv_det.core.once import differentiable_once
from odconv_det.core.per_sample import Geometry
from odconv_det.core.precision import full_precision
from odconv_det.core.sums import summed

__all__ = ["dynamic_conv2d"]


def dynamic_conv2d(
    x: Tensor,
    bank: Tensor,
    kernel: Tensor | None,
    scales: Scales,
    bias: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """``filter * conv(channel * x, spatial * sum_n kernel_n bank_n) + bias``.

    For backward it saves ``x``, the bank and the attentions, and builds the kernels
    anew. It can be differentiated once; a second time raises. Kernels are built in the
    bank's precision and cast once to that of ``x``.

    Shape:
        - x: ``(B, Ci, H, W)``
        - bank: ``(N, Co, Ci/G, kh, kw)``
        - kernel: ``(B, N)``; ``None`` needs ``N == 1``
        - bias: ``(Co,)``
        - output: ``(B, Co, Ho, Wo)``
    """
    case = case_of(x, bank, kernel, scales, geometry)
    plan = choose(case)
    tensors = (x, bank, kernel, *scales, bias)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in tensors
    ):
        # A kernel shared in the forward pass still has one gradient for each sample:
        # that is where the attentions' gradients come from.
        form = choose(case._replace(per_sample=True)).convolve
        return _DynamicConv2d.apply(*tensors, geometry, plan, form)
    return forward(x, bank, kernel, scales, bias, geometry, plan)


class _DynamicConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        bank: Tensor,
        kernel: Tensor | None,
        channel: Tensor | None,
        filter_: Tensor | None,
        spatial: Tensor | None,
        bias: Tensor | None,
        geometry: Geometry,
        plan: Plan,
        backward_form: str,
    ) -> Tensor:
        scales = Scales(channel, filter_, spatial)
        return forward(x, bank, kernel, scales, bias, geometry, plan)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, bias, geometry, _, form = inputs
        ctx.save_for_backward(*tensors)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.geometry, ctx.form = geometry, form

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, bank, kernel, channel, filter_, spatial = ctx.saved_tensors
        scales = Scales(channel, filter_, spatial)
        with full_precision(x.device.type):
            grad_x, grad_kernels = per_sample.backward(
                grad_y,
                x,
                sample_kernels(x, bank, kernel, scales),
                ctx.geometry,
                ctx.form,
                need_x=ctx.needs_input_grad[0],
            )
            own = gradients(grad_kernels.to(bank.dtype), bank, kernel, scales)
            grad_bias = None
            if ctx.bias_dtype is not None:
                grad_bias = summed(grad_y, (0, 2, 3), ctx.bias_dtype)
        return (
            grad_x,
            own.bank,
            own.kernel,
            own.channel,
            own.filter,
            own.spatial,
            grad_bias,
            None,
            None,
            None,
        )
