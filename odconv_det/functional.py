"""Tensor math of dynamic convolution: plain functions, no parameters.

Shape letters used throughout the package:

====== ==========================================
B      batch size
Ci, Co input and output channels
G      groups
N      kernels in the bank (``kernel_num``)
kh, kw kernel size
H, W   input size; Ho, Wo output size
====== ==========================================
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Attentions",
    "full_precision",
    "mix_kernels",
    "odconv2d",
    "per_sample_conv2d",
]

Pair = tuple[int, int]


class Attentions(NamedTuple):
    """The four attentions of one ODConv layer; an absent one is ``None``.

    Shape:
        - channel: ``(B, Ci, 1, 1)``
        - filter: ``(B, Co, 1, 1)``
        - spatial: ``(B, 1, 1, kh, kw)``
        - kernel: ``(B, N, 1, 1, 1, 1)``
    """

    channel: Tensor
    filter: Tensor | None
    spatial: Tensor | None
    kernel: Tensor | None


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """A context in which autocast leaves the operands' own dtype alone."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def mix_kernels(bank: Tensor, kernel: Tensor, spatial: Tensor | None) -> Tensor:
    """One kernel for each sample: ``spatial * sum_n kernel_n bank_n``.

    The products are taken in the order of the authors' release. With random weights a
    MobileNetV2 can amplify a difference in the last bit until it is as large as the
    output, so only the same order of operations gives the same numbers there. Nothing
    of the size ``(B, N, Co, Ci/G, kh, kw)`` is ever held or saved for backward.

    Shape:
        - bank: ``(N, Co, Ci/G, kh, kw)``
        - kernel: ``(B, N, 1, 1, 1, 1)``
        - spatial: ``(B, 1, 1, kh, kw)``
        - output: ``(B, Co, Ci/G, kh, kw)``
    """
    weights = kernel if spatial is None else spatial.unsqueeze(1) * kernel
    terms = (weights[:, n] * bank[n] for n in range(bank.shape[0]))
    return functools.reduce(torch.add, terms)


def per_sample_conv2d(
    x: Tensor,
    kernels: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Convolve each sample with its own kernel.

    Shape:
        - x: ``(B, Ci, H, W)``
        - kernels: ``(B, Co, Ci/G, kh, kw)``
        - output: ``(B, Co, Ho, Wo)``
    """
    batch = x.shape[0]
    if batch < 2:
        # The sum over no kernels is a zero kernel: an empty batch keeps its graph, so
        # that every parameter still gets a (zero) gradient under DDP.
        return F.conv2d(x, kernels.sum(0), None, stride, padding, dilation, groups)
    y = F.conv2d(
        x.reshape(1, -1, *x.shape[2:]),
        kernels.flatten(0, 1),
        None,
        stride,
        padding,
        dilation,
        batch * groups,
    )
    return y.reshape(batch, -1, *y.shape[2:])


def odconv2d(
    x: Tensor,
    bank: Tensor,
    attentions: Attentions,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """ODConv (arXiv 2209.07947, equation 2) for given attentions.

    ``y = filter * conv(channel * x, spatial * sum_n kernel_n bank_n) + bias``

    The kernels are mixed in the bank's own precision, whatever autocast says, and cast
    once for the convolution.

    Shape:
        - x: ``(B, Ci, H, W)``
        - bank: ``(N, Co, Ci/G, kh, kw)``
        - bias: ``(Co,)``
        - output: ``(B, Co, Ho, Wo)``
    """
    x = x * attentions.channel.to(x.dtype)
    geometry = (stride, padding, dilation, groups)
    if attentions.kernel is None and attentions.spatial is None:
        y = F.conv2d(x, bank[0], None, *geometry)  # one kernel serves every sample
    else:
        with full_precision(x.device.type):
            if attentions.kernel is None:
                kernels = attentions.spatial * bank[0]  # (B, Co, Ci/G, kh, kw)
            else:
                kernels = mix_kernels(bank, attentions.kernel, attentions.spatial)
        y = per_sample_conv2d(x, kernels, *geometry)
    if attentions.filter is not None:
        y = y * attentions.filter.to(y.dtype)
    if bias is not None:
        y = y + bias.to(y.dtype).view(-1, 1, 1)
    return y
