"""The dynamic convolution by plan, without gradients."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from odconv_det.core import per_sample
from odconv_det.core.accelerate import modulate
from odconv_det.core.dispatch import Case, Plan
from odconv_det.core.kernels import Scales
from odconv_det.core.per_sample import Geometry
from odconv_det.core.precision import full_precision, matmul_is_fast

__all__ = ["case_of", "forward", "sample_kernels"]


def case_of(
    x: Tensor,
    bank: Tensor,
    kernel: Tensor | None,
    scales: Scales,
    geometry: Geometry,
) -> Case:
    """What the choice of a plan may look at."""
    batch, in_channels, *size = x.shape
    kernel_size = (bank.shape[3], bank.shape[4])
    in_size = (size[0], size[1])
    return Case(
        batch=batch,
        in_channels=in_channels,
        out_channels=bank.shape[1],
        groups=geometry.groups,
        kernel_size=kernel_size,
        padding=geometry.padding,
        in_size=in_size,
        out_size=per_sample.out_size(in_size, kernel_size, geometry),
        per_sample=kernel is not None or scales.spatial is not None,
        channels_last=per_sample.is_channels_last(x),
        device=x.device.type,
        fast_matmul=matmul_is_fast(x),
    )


def forward(
    x: Tensor,
    bank: Tensor,
    kernel: Tensor | None,
    scales: Scales,
    bias: Tensor | None,
    geometry: Geometry,
    plan: Plan,
    convolve: Callable[..., Tensor] = per_sample.convolve,
) -> Tensor:
    """``filter * conv(channel * x, spatial * sum_n kernel_n bank_n) + bias``.

    ``convolve`` has the arguments of :func:`odconv_det.core.per_sample.convolve`.

    Shape:
        - x: ``(B, Ci, H, W)``
        - bank: ``(N, Co, Ci/G, kh, kw)``
        - kernel: ``(B, N)``
        - bias: ``(Co,)``
        - output: ``(B, Co, Ho, Wo)``
    """
    with full_precision(x.device.type):
        bias = None if bias is None else bias.to(x.dtype)
        if plan.scale == "kernel":
            own = sample_kernels(x, bank, kernel, scales)
            return convolve(x, own, bias, geometry, plan.convolve)
        own = modulate(bank, kernel, Scales(None, None, scales.spatial), x.dtype)
        if plan.convolve != "shared" and len(own) != len(x):
            own = own.expand(len(x), -1, -1, -1, -1)
        if scales.channel is not None:
            x = x * scales.channel[..., None, None].to(x.dtype)
        y = convolve(x, own, None, geometry, plan.convolve)
        if scales.filter is not None:
            y = y.mul_(scales.filter[..., None, None].to(y.dtype))
        return y if bias is None else y.add_(bias[:, None, None])


def sample_kernels(
    x: Tensor, bank: Tensor, kernel: Tensor | None, scales: Scales
) -> Tensor:
    """The complete kernel of every sample, in the precision of ``x``."""
    own = modulate(bank, kernel, scales, x.dtype)
    return own if len(own) == len(x) else own.expand(len(x), -1, -1, -1, -1)
