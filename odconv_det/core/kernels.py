"""Kernels of single samples: mixing a bank, scaling the result, and the way back.

No function here is differentiated by autograd: :mod:`odconv_det.core.autograd` calls
them in its own forward and backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Gradients", "Scales", "gradients", "mix", "modulate"]


class Scales(NamedTuple):
    """What multiplies a kernel, along each of its dimensions; an absent one is 1.

    Shape:
        - channel: ``(B, Ci)``
        - filter: ``(B, Co)``, or ``(1, Co)`` for all samples
        - spatial: ``(B, kh * kw)``
    """

    channel: Tensor | None
    filter: Tensor | None
    spatial: Tensor | None


class Gradients(NamedTuple):
    """Gradients of a loss with respect to what the kernels were made of."""

    bank: Tensor | None
    channel: Tensor | None
    filter: Tensor | None
    spatial: Tensor | None
    kernel: Tensor | None


def mix(bank: Tensor, kernel: Tensor | None) -> Tensor:
    """``sum_n kernel_n bank_n`` for each sample, in one pass over the bank.

    One matrix product over the bank's memory, whatever its layout: nothing of the size
    ``(B, N, Co, Ci/G, kh, kw)`` ever exists. Without a kernel attention the bank of
    one is returned as it is, for all samples.

    Shape:
        - bank: ``(N, Co, Ci/G, kh, kw)``
        - kernel: ``(B, N)``
        - output: ``(B, Co, Ci/G, kh, kw)``, or ``(1, ...)`` without ``kernel``
    """
    if kernel is None:
        return bank
    channels_last = bank.permute(0, 1, 3, 4, 2)
    if channels_last.is_contiguous() and not bank.is_contiguous():
        return _product(kernel, channels_last).permute(0, 1, 4, 2, 3)
    return _product(kernel, bank.contiguous())


def _product(kernel: Tensor, bank: Tensor) -> Tensor:
    return (kernel @ bank.flatten(1)).unflatten(1, bank.shape[1:])


def modulate(bank: Tensor, kernel: Tensor | None, scales: Scales) -> Tensor:
    """The kernel of each sample: ``filter * channel * spatial * mix(bank, kernel)``.

    Shape:
        - bank: ``(N, Co, Ci/G, kh, kw)``
        - kernel: ``(B, N)``
        - output: ``(B, Co, Ci/G, kh, kw)``, or ``(1, ...)`` if none depends on B
    """
    mixed = mix(bank, kernel)
    kernels = _by_group(mixed, scales.channel)  # (B, G, Co/G, Ci/G, kh, kw)
    # Two passes with small factors beat one with their product, which is as large as
    # the kernel; a kernel of our own is changed in place, which saves writing it anew.
    fresh = mixed is not bank
    for factor in (_row(kernels, scales), _column(kernels, scales.filter)):
        if factor is not None:
            kernels = kernels.mul_(factor) if fresh else kernels * factor
            fresh = True
    return kernels.reshape(len(kernels), *bank.shape[1:])


def _by_group(kernels: Tensor, channel: Tensor | None) -> Tensor:
    batch, out_channels, width, kh, kw = kernels.shape
    groups = 1 if channel is None else channel.shape[1] // width
    return kernels.view(batch, groups, out_channels // groups, width, kh, kw)


def _row(kernels: Tensor, scales: Scales) -> Tensor | None:
    """channel * spatial, which all filters of a group share, laid out like kernels."""
    _, groups, _, width, kh, kw = kernels.shape
    channel, spatial = scales.channel, scales.spatial
    if channel is not None:
        channel = channel.view(-1, groups, 1, width, 1, 1)
    if spatial is not None:
        spatial = spatial.view(-1, 1, 1, 1, kh, kw)
    if channel is None or spatial is None:
        return spatial if channel is None else channel
    if kernels.stride(3) == 1:  # channels_last
        last = (0, 1, 2, 4, 5, 3)
        return (channel.permute(last) * spatial.permute(last)).movedim(5, 3)
    return channel * spatial


def _column(kernels: Tensor, filter_: Tensor | None) -> Tensor | None:
    if filter_ is None:
        return None
    return filter_.view(-1, *kernels.shape[1:3], 1, 1, 1)


def gradients(
    grad: Tensor, bank: Tensor, kernel: Tensor | None, scales: Scales
) -> Gradients:
    """From the gradients of the samples' kernels to those of bank and attentions.

    With ``g`` the gradient of :func:`modulate`'s output, ``m`` the mixed kernel and
    ``s`` the product of all scales: ``dbank_n = sum_b kernel_bn s_b g_b``,
    ``dkernel_bn = <s_b g_b, bank_n>``, and the gradient of a scale is ``g * m`` times
    the other scales, summed over the dimensions that the scale does not have. So the
    attentions' gradients cost reductions of the size of a kernel, not of a map.

    Shape:
        - grad: ``(B, Co, Ci/G, kh, kw)``
    """
    batch, out_channels, width = grad.shape[:3]
    channel, filter_, spatial = scales
    groups = 1 if channel is None else channel.shape[1] // width
    pairs = (batch * groups, out_channels // groups, width)

    grad = grad.flatten(3).flatten(1, 2)  # (B, Co * Ci/G, kh * kw)
    product = grad * mix(bank, kernel).flatten(3).flatten(1, 2)

    def over_filters(value: Tensor) -> Tensor:
        return value.expand(batch, out_channels).reshape(*pairs[:2], 1)

    def over_channels(value: Tensor) -> Tensor:
        return value.reshape(batch * groups, 1, width)

    # channel * filter, for each pair of channels
    both = None
    if filter_ is not None:
        both = over_filters(filter_).expand(pairs)
    if channel is not None:
        row = over_channels(channel)
        both = row.expand(pairs) if both is None else both * row
    if both is not None:
        both = both.reshape(batch, out_channels * width, 1)

    summed = product.sum(2) if spatial is None else product @ spatial.unsqueeze(2)
    summed = summed.view(pairs)
    grad_channel = grad_filter = grad_spatial = grad_kernel = None
    if channel is not None:
        grad_channel = (
            summed.sum(1)
            if filter_ is None
            else over_filters(filter_).transpose(1, 2) @ summed
        ).reshape(batch, groups * width)
    if filter_ is not None:
        grad_filter = (
            summed.sum(2)
            if channel is None
            else summed @ over_channels(channel).transpose(1, 2)
        ).reshape(batch, out_channels)
        if len(filter_) != batch:
            grad_filter = grad_filter.sum(0, keepdim=True)
    if spatial is not None:
        grad_spatial = (
            product.sum(1)
            if both is None
            else (both.transpose(1, 2) @ product).squeeze(1)
        )

    scaled = grad if both is None else grad * both
    if spatial is not None:
        scaled = scaled * spatial.unsqueeze(1)
    scaled = scaled.flatten(1)  # (B, Co * Ci/G * kh * kw)
    if kernel is None:
        grad_bank = scaled.sum(0).view(bank.shape)
    else:
        grad_bank = (kernel.t() @ scaled).view(bank.shape)
        grad_kernel = scaled @ bank.flatten(1).t()
    return Gradients(grad_bank, grad_channel, grad_filter, grad_spatial, grad_kernel)
