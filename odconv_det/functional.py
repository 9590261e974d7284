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

from typing import NamedTuple

from torch import Tensor

from odconv_det.core import per_sample
from odconv_det.core.autograd import dynamic_conv2d
from odconv_det.core.dispatch import choose
from odconv_det.core.forward import case_of
from odconv_det.core.kernels import Scales
from odconv_det.core.per_sample import Geometry
from odconv_det.core.precision import autocast_input, full_precision
from odconv_det.core.sums import with_bias

__all__ = ["Affine", "Attentions", "Geometry", "odconv2d", "sample_conv2d"]


class Attentions(NamedTuple):
    """The four attentions of one layer; an absent one is ``None``.

    Shape:
        - channel: ``(B, Ci)``
        - filter: ``(B, Co)``
        - spatial: ``(B, kh * kw)``
        - kernel: ``(B, N)``
    """

    channel: Tensor | None
    filter: Tensor | None
    spatial: Tensor | None
    kernel: Tensor | None


class Affine(NamedTuple):
    """What a BatchNorm in eval mode does to each channel: ``scale * y + shift``.

    Shape:
        - scale, shift: ``(Co,)``
    """

    scale: Tensor
    shift: Tensor

    def of_bias(self, bias: Tensor | None) -> Tensor:
        """The bias after it, ``(Co,)``; no bias is one of zeros."""
        return self.shift if bias is None else bias * self.scale + self.shift


def odconv2d(
    x: Tensor,
    bank: Tensor,
    attentions: Attentions,
    bias: Tensor | None,
    geometry: Geometry,
    affine: Affine | None = None,
) -> Tensor:
    """ODConv (arXiv 2209.07947, equation 2) for given attentions.

    ``y = filter * conv(channel * x, spatial * sum_n kernel_n bank_n) + bias``, and then
    ``affine``, whose scale joins the filter attention and whose shift joins the bias.

    The attentions are folded into each sample's kernel or applied to the maps,
    whichever is cheaper (:mod:`odconv_det.core.dispatch`). Kernels are made in the
    bank's own precision, whatever autocast says, and cast once for the convolution. A
    second derivative raises.

    Shape:
        - x: ``(B, Ci, H, W)``
        - bank: ``(N, Co, Ci/G, kh, kw)``
        - bias: ``(Co,)``
        - output: ``(B, Co, Ho, Wo)``
    """
    channel, filter_, spatial, kernel = attentions
    if affine is not None:
        filter_ = affine.scale if filter_ is None else filter_ * affine.scale
        filter_ = filter_.view(-1, bank.shape[1])
        bias = affine.of_bias(bias)
    scales = Scales(channel, filter_, spatial)
    return dynamic_conv2d(autocast_input(x), bank, kernel, scales, bias, geometry)


def sample_conv2d(
    x: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    affine: Affine | None = None,
) -> Tensor:
    """Convolve each sample with a kernel of its own, and then apply ``affine``.

    For kernels that are no weighted sum of a bank. They are cast once to the precision
    of the convolution, and kept for backward.

    Shape:
        - x: ``(B, Ci, H, W)``
        - kernels: ``(B, Co, Ci/G, kh, kw)``
        - bias: ``(Co,)``
        - output: ``(B, Co, Ho, Wo)``
    """
    if affine is not None:
        kernels = kernels * affine.scale.view(-1, 1, 1, 1)
        bias = affine.of_bias(bias)
    x = autocast_input(x)
    case = case_of(x, kernels, None, Scales(None, None, None), geometry)
    form = choose(case._replace(per_sample=True)).convolve
    with full_precision(x.device.type):
        own = kernels.to(x.dtype)

        def convolve(bias: Tensor | None) -> Tensor:
            bias = None if bias is None else bias.to(x.dtype)
            return per_sample.convolve(x, own, bias, geometry, form)

        return with_bias(convolve, bias, x)
