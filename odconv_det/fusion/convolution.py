"""Convolution, bias, residual and activation in one call where torch has one."""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from odconv_det.core import per_sample
from odconv_det.core.per_sample import Geometry, is_channels_last

__all__ = ["Activation", "convolve", "finish", "one_call_works"]

Activation = Literal["none", "relu", "relu6"]

# oneDNN's names: attribute and scalars.
_ONEDNN = {"none": ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0, 6])}


def convolve(
    x: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    form: str,
    activation: Activation,
    residual: Tensor | None = None,
    *,
    overwrite: bool = False,
) -> Tensor:
    """``activation(conv(x) + bias + residual)``, each sample with its own kernel.

    For inference: nothing is recorded for backward. With ``overwrite`` the output may
    take the residual's memory, which for a large map costs less than new memory does.

    Shape:
        - x: ``(B, Ci, H, W)``
        - kernels: ``(B, Co, Ci/G, kh, kw)``; ``(1, ...)`` for ``form='shared'``
        - bias: ``(Co,)``
        - residual, output: ``(B, Co, Ho, Wo)``
    """
    if residual is not None and not _matches(residual, x, kernels, geometry):
        y = convolve(x, kernels, bias, geometry, form, "none")
        return finish(y, residual, activation)
    if form in ("matmul", "grouped") or not len(x):
        y = per_sample.convolve(x, kernels, bias, geometry, form)
        return finish(y, residual, activation)
    if form == "shared" or len(x) == 1:
        return _single(x, kernels[0], bias, geometry, activation, residual, overwrite)
    ys = [
        _single(
            x[b : b + 1],
            kernels[b],
            bias,
            geometry,
            activation,
            None if residual is None else residual[b : b + 1],
            overwrite,
        )
        for b in range(len(x))
    ]
    if residual is not None and all(
        y.data_ptr() == residual[b].data_ptr() for b, y in enumerate(ys)
    ):
        return residual
    return torch.cat(ys)


def _matches(residual: Tensor, x: Tensor, kernels: Tensor, geometry: Geometry) -> bool:
    """Whether the residual has the shape and type of the convolution's output."""
    height, width = x.shape[2:]
    kernel_size = (kernels.shape[3], kernels.shape[4])
    size = per_sample.out_size((height, width), kernel_size, geometry)
    shape = (len(x), kernels.shape[1], *size)
    return residual.shape == shape and residual.dtype == x.dtype


def finish(y: Tensor, residual: Tensor | None, activation: Activation) -> Tensor:
    """``activation(y + residual)``, in ``y``'s memory if it has the sum's shape."""
    if residual is not None:
        same = residual.shape == y.shape and residual.dtype == y.dtype
        y = y.add_(residual) if same else y + residual
    if activation == "relu":
        return y.relu_()
    return y.clamp_(0, 6) if activation == "relu6" else y


def _single(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: Activation,
    residual: Tensor | None,
    overwrite: bool,
) -> Tensor:
    if one_call_works(x.device.type, x.dtype):
        if x.is_cpu:
            return _onednn(x, weight, bias, geometry, activation, residual, overwrite)
        if activation == "relu":
            return _cudnn_or_not(x, weight, bias, geometry, residual)
    return finish(F.conv2d(x, weight, bias, *geometry), residual, activation)


def _onednn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: Activation,
    residual: Tensor | None,
    overwrite: bool,
) -> Tensor:
    stride, padding, dilation, groups = geometry
    convolution = (weight, bias, padding, stride, dilation, groups)
    attribute, scalars = _ONEDNN[activation]
    if residual is None:
        op = torch.ops.mkldnn._convolution_pointwise.default
        return op(x, *convolution, attribute, scalars, "")
    if attribute == "hardtanh":  # no such pair in oneDNN's list
        y = _onednn(x, weight, bias, geometry, "none", residual, overwrite)
        return finish(y, None, activation)
    then = ("add", 1.0, None if attribute == "none" else attribute, scalars, "")
    if overwrite and is_channels_last(residual) == is_channels_last(x):
        op = torch.ops.mkldnn._convolution_pointwise_.binary
        return op(residual, x, *convolution, *then)
    op = torch.ops.mkldnn._convolution_pointwise.binary
    return op(x, residual, *convolution, *then)


def _cudnn_or_not(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    residual: Tensor | None,
) -> Tensor:
    """cuDNN's call, unless it has failed for such a convolution before."""
    kind = (x.dtype, weight.shape, geometry, is_channels_last(x), residual is None)
    if kind not in _REFUSED:
        try:
            return _cudnn(x, weight, bias, geometry, residual)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # no engine for this combination
            _REFUSED.add(kind)
    return finish(F.conv2d(x, weight, bias, *geometry), residual, "relu")


# A network has as many kinds as it has different layers.
_REFUSED: set[tuple[object, ...]] = set()


def _cudnn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    residual: Tensor | None,
) -> Tensor:
    if residual is None:
        return torch.cudnn_convolution_relu(x, weight, bias, *geometry)
    return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *geometry)


def one_call_works(device_type: str, dtype: torch.dtype) -> bool:
    """Whether this torch has the fused calls for such tensors, and they are right.

    They are no public interface of torch, so they are tried once before use. Under
    torch.compile they are not taken: the compiler has its own. Nor is cuDNN's where the
    same bits are asked for each time: it takes any algorithm.
    """
    if torch.compiler.is_compiling():
        return False
    if device_type == "cpu":
        enabled = torch._C._get_mkldnn_enabled()
        return dtype == torch.float32 and enabled and _works(device_type, dtype)
    if device_type == "cuda":
        cudnn = torch.backends.cudnn
        same = cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
        return cudnn.enabled and not same and _works(device_type, dtype)
    return False


@functools.lru_cache(maxsize=16)
def _works(device_type: str, dtype: torch.dtype) -> bool:
    x = torch.linspace(-1, 1, 8 * 64, dtype=torch.float32).view(1, 8, 8, 8)
    weight = torch.linspace(1, -1, 8 * 8 * 9, dtype=torch.float32).view(8, 8, 3, 3)
    x, weight = x.to(device_type, dtype), weight.to(device_type, dtype)
    bias = weight.new_ones(8)
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=layout)
        plain = F.conv2d(x, weight, bias, *geometry)
        for residual in (None, x):
            expected = finish(plain.clone(), residual, "relu")
            own = None if residual is None else residual.clone()
            call = (x, weight, bias, geometry)
            _poison(plain)
            try:
                if device_type == "cuda":
                    results = [_cudnn(*call, residual)]
                else:
                    results = [
                        _onednn(*call, "relu", residual, False),
                        _onednn(*call, "relu", own, True),
                    ]
            except torch.OutOfMemoryError:
                raise
            except (AttributeError, RuntimeError):
                return False
            tolerance = 1e-5 if dtype == torch.float32 else 1e-2
            if device_type == "cuda":
                tolerance = 1e-2  # TF32
            tolerance *= expected.abs().max()
            # Asked so that NaN fails.
            if not all((y - expected).abs().max() <= tolerance for y in results):
                return False
    return True


def _poison(like: Tensor) -> None:
    """Leave NaN in the memory that the next tensors of this size will get."""
    # Several at a time, as nobody knows which free block an allocator takes first.
    for tensor in [torch.empty_like(like) for _ in range(16)]:
        tensor.fill_(torch.nan)
