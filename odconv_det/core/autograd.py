"""The dynamic convolution as one differentiable function that saves its inputs only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from odconv_det.core import per_sample
from odconv_det.core.dispatch import Case, Plan, choose
from odconv_det.core.kernels import Scales, gradients, modulate
from odconv_det.core.per_sample import Geometry
from odconv_det.core.precision import full_precision

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
    plan = choose(_case(x, bank, kernel, scales, geometry))
    inputs = (x, bank, kernel, *scales, bias)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in inputs
    ):
        return _DynamicConv2d.apply(*inputs, geometry, plan)
    return _forward(*inputs, geometry, plan)


def _case(
    x: Tensor,
    bank: Tensor,
    kernel: Tensor | None,
    scales: Scales,
    geometry: Geometry,
) -> Case:
    batch, in_channels, *size = x.shape
    kernel_size = (bank.shape[3], bank.shape[4])
    in_size = (size[0], size[1])
    return Case(
        batch=batch,
        in_channels=in_channels,
        out_channels=bank.shape[1],
        groups=geometry.groups,
        kernel_size=kernel_size,
        stride=geometry.stride,
        padding=geometry.padding,
        in_size=in_size,
        out_size=per_sample.out_size(in_size, kernel_size, geometry),
        per_sample=kernel is not None or scales.spatial is not None,
        channels_last=per_sample.is_channels_last(x),
        device=x.device.type,
        fast_matmul=x.dtype != torch.float32
        or x.device.type != "cuda"
        or torch.backends.cuda.matmul.allow_tf32
        or not torch.backends.cudnn.allow_tf32,
    )


def _forward(
    x: Tensor,
    bank: Tensor,
    kernel: Tensor | None,
    channel: Tensor | None,
    filter_: Tensor | None,
    spatial: Tensor | None,
    bias: Tensor | None,
    geometry: Geometry,
    plan: Plan,
) -> Tensor:
    with full_precision(x.device.type):
        bias = None if bias is None else bias.to(x.dtype)
        if plan.scale == "kernel":
            scales = Scales(channel, filter_, spatial)
            own = _kernels(x, bank, kernel, scales)
            return per_sample.convolve(x, own, bias, geometry, plan.convolve)
        own = modulate(bank, kernel, Scales(None, None, spatial)).to(x.dtype)
        if plan.convolve != "shared":
            own = own.expand(len(x), -1, -1, -1, -1)
        if channel is not None:
            x = x * channel[..., None, None].to(x.dtype)
        y = per_sample.convolve(x, own, None, geometry, plan.convolve)
        if filter_ is not None:
            y = y.mul_(filter_[..., None, None].to(y.dtype))
        return y if bias is None else y.add_(bias[:, None, None])


def _kernels(
    x: Tensor, bank: Tensor, kernel: Tensor | None, scales: Scales
) -> Tensor:
    """The complete kernel of every sample, in the precision of ``x``."""
    own = modulate(bank, kernel, scales).to(x.dtype)
    return own.expand(len(x), -1, -1, -1, -1)


class _DynamicConv2d(torch.autograd.Function):
    @staticmethod
    def forward(*args: Any) -> Tensor:
        y = _forward(*args)
        # Some forms end in a view of their result, which nobody could change in place.
        return torch.ops.aten._unsafe_view(y, y.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, bias, geometry, plan = inputs
        ctx.save_for_backward(*tensors)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.geometry, ctx.plan = geometry, plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, bank, kernel, channel, filter_, spatial = ctx.saved_tensors
        scales = Scales(channel, filter_, spatial)
        # A kernel shared in the forward pass still has one gradient for each sample:
        # that is where the attentions' gradients come from.
        form = "slices" if ctx.plan.convolve == "shared" else ctx.plan.convolve
        with full_precision(x.device.type):
            grad_x, grad_kernels = per_sample.backward(
                grad_y,
                x,
                _kernels(x, bank, kernel, scales),
                ctx.geometry,
                form,
                need_x=ctx.needs_input_grad[0],
            )
            own = gradients(grad_kernels.to(bank.dtype), bank, kernel, scales)
            grad_bias = None
            if ctx.bias_dtype is not None:
                grad_bias = grad_y.sum((0, 2, 3)).to(ctx.bias_dtype)
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
        )
