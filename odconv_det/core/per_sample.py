"""Convolving each sample with its own kernel, forward and backward, in each form."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Geometry", "backward", "convolve", "is_channels_last", "out_size", "own"]

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """Of a convolution, as ``torch.nn.functional.conv2d`` takes it."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def out_size(size: Pair, kernel_size: Pair, geometry: Geometry) -> Pair:
    """Height and width of the output."""
    stride, padding, dilation, _ = geometry
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(
            size, kernel_size, stride, padding, dilation, strict=True
        )
    )
    return height, width


def convolve(
    x: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry, form: str
) -> Tensor:
    """Convolve sample ``b`` with ``kernels[b]``; ``form`` is a plan's ``convolve``.

    Shape:
        - x: ``(B, Ci, H, W)``
        - kernels: ``(B, Co, Ci/G, kh, kw)``; ``(1, ...)`` for ``shared``
        - bias: ``(Co,)``
        - output: ``(B, Co, Ho, Wo)``
    """
    batch = len(x)
    if form == "shared":
        return F.conv2d(x, _readable(kernels[0]), bias, *geometry)
    if form == "matmul":
        return own(_matmul(x, kernels, bias, geometry.stride))
    if form == "grouped":
        planes = x.reshape(1, -1, *x.shape[2:])
        repeated = None if bias is None else bias.repeat(batch)
        y = F.conv2d(planes, _stacked(kernels), repeated, *_grouped(geometry, batch))
        return own(_laid_out_as(x, y.reshape(batch, -1, *y.shape[2:])))
    if batch == 0:  # the sum over no kernels is a zero kernel
        return F.conv2d(x, kernels.sum(0), bias, *geometry)
    ys = [
        F.conv2d(x[b : b + 1], _readable(kernels[b]), bias, *geometry)
        for b in range(batch)
    ]
    return ys[0] if batch == 1 else torch.cat(ys)


def backward(
    grad_y: Tensor,
    x: Tensor,
    kernels: Tensor,
    geometry: Geometry,
    form: str,
    *,
    need_x: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of :func:`convolve` with respect to ``x`` (if needed) and ``kernels``.

    Shape:
        - grad_y: ``(B, Co, Ho, Wo)``
        - kernels: ``(B, Co, Ci/G, kh, kw)``
    """
    batch = len(x)
    if batch == 0:
        return torch.zeros_like(x), torch.zeros_like(kernels)
    if form == "matmul":
        return _matmul_backward(grad_y, x, kernels, geometry.stride, need_x)
    if form == "grouped":
        grad_x, grad_kernels = _conv_backward(
            grad_y.reshape(1, -1, *grad_y.shape[2:]),
            x.reshape(1, -1, *x.shape[2:]),
            _stacked(kernels),
            _grouped(geometry, batch),
            need_x,
        )
        grad_x = _laid_out_as(x, grad_x.reshape(x.shape)) if need_x else None
        return grad_x, grad_kernels.view(kernels.shape)
    pairs = [
        _conv_backward(
            grad_y[b : b + 1], x[b : b + 1], _readable(kernels[b]), geometry, need_x
        )
        for b in range(batch)
    ]
    if batch == 1:
        return pairs[0][0], pairs[0][1].unsqueeze(0)
    grad_xs, grad_kernels = zip(*pairs, strict=True)
    return torch.cat(grad_xs) if need_x else None, torch.stack(grad_kernels)


def own(y: Tensor) -> Tensor:
    """The same memory as a tensor of its own, which is not a view.

    Autograd lets nobody change a view in place that left a custom function or a
    checkpoint, as the in-place ReLU behind a convolution does.
    """
    return torch.ops.aten._unsafe_view(y, y.shape)


def _readable(kernel: Tensor) -> Tensor:
    """A kernel of one filter with the strides that channels_last stands for.

    The stride from one filter to the next may then be any number, but torch's backward
    on a CPU raises for all but one of them.
    """
    if len(kernel) == 1 and is_channels_last(kernel):
        return kernel.clone(memory_format=torch.channels_last)
    return kernel


def _stacked(kernels: Tensor) -> Tensor:
    """The kernels of all samples as one, in NCHW.

    As their maps are, which are one image here: cuDNN would take NHWC, and copy the
    maps, if the kernel alone were laid out so.
    """
    return kernels.flatten(0, 1).contiguous()


def _laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """``y`` in channels_last if ``x`` is."""
    return y.contiguous(memory_format=torch.channels_last) if is_channels_last(x) else y


def _grouped(geometry: Geometry, batch: int) -> Geometry:
    return geometry._replace(groups=batch * geometry.groups)


def _conv_backward(
    grad_y: Tensor, x: Tensor, kernel: Tensor, geometry: Geometry, need_x: bool
) -> tuple[Tensor | None, Tensor]:
    grad_x, grad_kernel, _ = torch.ops.aten.convolution_backward(
        grad_y,
        x,
        kernel,
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        False,
        (0, 0),
        geometry.groups,
        (need_x, True, False),
    )
    return grad_x, grad_kernel


def _matmul(x: Tensor, kernels: Tensor, bias: Tensor | None, stride: Pair) -> Tensor:
    channels_last = is_channels_last(x)  # which a part of it is not any more
    x = x[:, :, :: stride[0], :: stride[1]]
    matrices = kernels[..., 0, 0]  # (B, Co, Ci)
    if channels_last:
        columns = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, Ho * Wo, Ci)
        y = _product(columns, matrices.transpose(1, 2), bias)
        return y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    y = _product(matrices, x.flatten(2), None if bias is None else bias.unsqueeze(1))
    return y.unflatten(2, x.shape[2:])


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(a, b) if bias is None else torch.baddbmm(bias, a, b)


def _matmul_backward(
    grad_y: Tensor, x: Tensor, kernels: Tensor, stride: Pair, need_x: bool
) -> tuple[Tensor | None, Tensor]:
    seen = x[:, :, :: stride[0], :: stride[1]]
    matrices = kernels[..., 0, 0]  # (B, Co, Ci)
    channels_last = is_channels_last(x)
    if channels_last:
        grads = grad_y.permute(0, 2, 3, 1).flatten(1, 2)  # (B, Ho * Wo, Co)
        columns = seen.permute(0, 2, 3, 1).flatten(1, 2)
        grad_kernels = torch.bmm(grads.transpose(1, 2), columns)
    else:
        grads = grad_y.flatten(2)  # (B, Co, Ho * Wo)
        grad_kernels = torch.bmm(grads, seen.flatten(2).transpose(1, 2))
    grad_kernels = grad_kernels.view(kernels.shape)
    if not need_x:
        return None, grad_kernels
    if channels_last:
        grad_seen = torch.bmm(grads, matrices).unflatten(1, seen.shape[2:])
        grad_seen = grad_seen.permute(0, 3, 1, 2)
    else:
        grad_seen = torch.bmm(matrices.transpose(1, 2), grads).view(seen.shape)
    if stride == (1, 1):
        return grad_seen, grad_kernels
    grad_x = torch.zeros_like(x)
    grad_x[:, :, :: stride[0], :: stride[1]] = grad_seen
    return grad_x, grad_kernels


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` lies in memory as NHWC, and not as NCHW."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
