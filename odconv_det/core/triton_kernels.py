"""Triton kernels for inference: pooling, attentions, and the kernel of each sample.

The only file that imports triton; :mod:`odconv_det.core.accelerate` loads it on demand.
All arithmetic is float32, whatever the operands' precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from odconv_det.core.kernels import Scales
from odconv_det.core.per_sample import is_channels_last

__all__ = ["attend", "available", "modulate", "pool"]

# Elements that a program reads at a time.
TILE = 2048
# Programs among which a map is divided. A number of our own, not of the device's
# multiprocessors, so that the order of summation is the same everywhere.
PROGRAMS = 512

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def available(x: Tensor) -> bool:
    """Whether the kernels take such a tensor: on CUDA, or triton's interpreter is on.

    The interpreter is on if ``TRITON_INTERPRET=1`` was set before triton's import.
    """
    interpreted = not isinstance(_pool, triton.JITFunction)
    return x.dtype in _DTYPES and (x.is_cuda or interpreted)


def pool(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean of each channel, as :func:`odconv_det.core.pooling.global_average`.

    Each program sums some of the pixels, and their sums are added up in a second step:
    no atomics, and the same bits every time.

    Shape:
        - x: ``(B, C, H, W)``
        - output: ``(B, C)``
    """
    batch, channels, *size = x.shape
    pixels = size[0] * size[1]
    if is_channels_last(x):
        steps = (1, channels)
        block_c = _power_of_2(channels, 64)
        block_p = _power_of_2(pixels, TILE // block_c)
    else:
        x = x.contiguous()
        steps = (pixels, 1)
        block_p = _power_of_2(pixels, TILE)
        block_c = _power_of_2(channels, TILE // block_p)
    rows = triton.cdiv(channels, block_c)
    blocks = triton.cdiv(pixels, block_p)
    blocks_each = triton.cdiv(blocks * rows * batch, PROGRAMS)
    parts = triton.cdiv(blocks, blocks_each)
    means = x.new_empty(batch, parts, channels, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _pool[(parts, rows, batch)](
            x,
            means,
            channels,
            pixels,
            blocks_each * block_p,
            *steps,
            1 / pixels,
            block_c=block_c,
            block_p=block_p,
        )
    pooled = means.squeeze(1) if parts == 1 else means.sum(1)
    return pooled.to(dtype)


@triton.jit
def _pool(
    x,
    means,
    channels,
    pixels,
    chunk,
    channel_step,
    pixel_step,
    scale,
    block_c: tl.constexpr,
    block_p: tl.constexpr,
):
    part, row, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    c = row * block_c + tl.arange(0, block_c)
    start = part * chunk
    stop = tl.minimum(start + chunk, pixels)
    x += (sample.to(tl.int64) * channels * pixels + c.to(tl.int64) * channel_step)[
        :, None
    ]
    total = tl.zeros((block_c, block_p), tl.float32)
    for first in range(start, stop, block_p):
        p = first + tl.arange(0, block_p)
        inside = (c < channels)[:, None] & (p < pixels)[None, :]
        values = tl.load(x + p.to(tl.int64)[None, :] * pixel_step, inside, other=0.0)
        total += values.to(tl.float32)
    means += (sample * tl.num_programs(0) + part) * channels
    tl.store(means + c, tl.sum(total, 1) * scale, c < channels)


def attend(
    pooled: Tensor,
    trunk_weight: Tensor,
    trunk_bias: Tensor,
    head_weight: Tensor,
    head_bias: Tensor,
    sizes: Sequence[int],
) -> tuple[Tensor | None, ...]:
    """The attentions, in the order of :class:`odconv_det.functional.Attentions`.

    ``head(relu(trunk(pooled)))``, and of that the sigmoid for the first three, the
    softmax for the last; one that has no size is ``None``.

    Shape:
        - pooled: ``(B, Ci)``
        - trunk_weight: ``(hidden, Ci)``; trunk_bias: ``(hidden,)``
        - head_weight: ``(sum of sizes, hidden)``; head_bias: ``(sum of sizes,)``
        - output: ``(B, size)`` for each of ``sizes``
    """
    *gates, kernels = sizes
    width = len(trunk_bias)
    with torch.cuda.device_of(pooled):
        hidden = pooled.new_empty(len(pooled), width, dtype=torch.float32)
        _dense(pooled.contiguous(), trunk_weight, trunk_bias, hidden, width, relu=True)
        values = pooled.new_empty(len(pooled), sum(sizes))
        _dense(hidden, head_weight, head_bias, values, sum(gates), kernels)
    parts = values.split_with_sizes(list(sizes), 1)
    return tuple(
        part if size else None for part, size in zip(parts, sizes, strict=True)
    )


def _dense(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    y: Tensor,
    gates: int,
    kernels: int = 0,
    *,
    relu: bool = False,
) -> None:
    batch, width = x.shape
    block_i = _power_of_2(width, 512)
    block_o = max(TILE // block_i, triton.next_power_of_2(kernels))
    # The outputs under the softmax are one program's work.
    grid = (triton.cdiv(gates, block_o) + (kernels > 0), batch)
    _layer[grid](
        x,
        weight.contiguous(),
        bias,
        y,
        width,
        gates,
        gates + kernels,
        relu=relu,
        block_i=block_i,
        block_o=block_o,
    )


@triton.jit
def _layer(
    x,
    weight,
    bias,
    y,
    width,
    gates,
    outputs,
    relu: tl.constexpr,
    block_i: tl.constexpr,
    block_o: tl.constexpr,
):
    block, sample = tl.program_id(0), tl.program_id(1)
    gated = block * block_o < gates
    start = tl.where(gated, block * block_o, gates)
    o = start + tl.arange(0, block_o)
    valid = o < tl.where(gated, gates, outputs)
    total = tl.zeros((block_o, block_i), tl.float32)
    for first in range(0, width, block_i):
        i = first + tl.arange(0, block_i)
        row = tl.load(x + sample * width + i, i < width, other=0.0).to(tl.float32)
        inside = valid[:, None] & (i < width)[None, :]
        w = tl.load(weight + o[:, None] * width + i[None, :], inside, other=0.0)
        total += w.to(tl.float32) * row[None, :]
    logits = tl.sum(total, 1) + tl.load(bias + o, valid, other=0.0).to(tl.float32)
    if relu:
        values = tl.maximum(logits, 0.0)
    else:
        seen = tl.where(valid, logits, float("-inf"))
        powers = tl.exp(seen - tl.max(seen, 0))
        values = tl.where(gated, tl.sigmoid(logits), powers / tl.sum(powers, 0))
    tl.store(y + sample * outputs + o, values, valid)


def modulate(
    bank: Tensor, kernel: Tensor | None, scales: Scales, dtype: torch.dtype
) -> Tensor:
    """The kernel of each sample: as :func:`odconv_det.core.kernels.modulate`.

    One pass over the bank does it all, and writes in the bank's memory layout.

    Shape:
        - bank: ``(N, Co, Ci/G, kh, kw)``
        - kernel: ``(B, N)``; ``None`` needs ``N == 1``
        - output: ``(B, Co, Ci/G, kh, kw)``, or ``(1, ...)`` if none depends on B
    """
    factors = [_rows(factor) for factor in (kernel, *scales)]
    lengths = [len(factor) for factor, _ in factors if factor is not None]
    if not lengths:
        return bank.to(dtype)
    batch = next((length for length in lengths if length != 1), 1)
    kernel_num, out_channels, width, kh, kw = bank.shape
    # A bank that is both is NCHW: its kernels' strides must not make a convolution of
    # an NCHW map believe in channels_last.
    channels_last = (
        not bank.is_contiguous() and bank.permute(0, 1, 3, 4, 2).is_contiguous()
    )
    if channels_last:
        y = bank.new_empty(batch, out_channels, kh, kw, width, dtype=dtype)
        y = y.permute(0, 1, 4, 2, 3)
    else:
        bank = bank.contiguous()
        y = bank.new_empty(batch, *bank.shape[1:], dtype=dtype)
    groups = 1 if scales.channel is None else scales.channel.shape[1] // width
    size = bank[0].numel()
    block_n = triton.next_power_of_2(kernel_num)
    block = _power_of_2(size, max(TILE // block_n, 128))
    with torch.cuda.device_of(bank):
        _modulate[(triton.cdiv(size, block),)](
            y,
            bank,
            size,
            batch,
            kernel_num,
            width,
            out_channels // groups,
            *itertools.chain(*factors),
            area=kh * kw,
            channels_last=channels_last,
            block_n=block_n,
            block=block,
        )
    return y


@triton.jit
def _modulate(
    y,
    bank,
    size,
    batch,
    kernel_num,
    width,
    filters,
    kernel,
    kernel_step,
    channel,
    channel_step,
    filter_,
    filter_step,
    spatial,
    spatial_step,
    area: tl.constexpr,
    channels_last: tl.constexpr,
    block_n: tl.constexpr,
    block: tl.constexpr,
):
    element = tl.program_id(0) * block + tl.arange(0, block)  # in order of memory
    o = element // (width * area)
    if channels_last:
        tap, i = element // width % area, element % width
    else:
        tap, i = element % area, element // area % width
    c = o // filters * width + i  # of the group that the filter belongs to
    n = tl.arange(0, block_n)
    inside = element < size
    everywhere = (n < kernel_num)[:, None] & inside[None, :]
    own = tl.load(bank + n[:, None] * size + element[None, :], everywhere, other=0.0)
    own = own.to(tl.float32)
    for _ in range(batch):
        if kernel is None:
            value = tl.sum(own, 0)
        else:
            weights = tl.load(kernel + n, n < kernel_num, other=0.0).to(tl.float32)
            value = tl.sum(own * weights[:, None], 0)
            kernel += kernel_step
        if channel is not None:
            value *= tl.load(channel + c, inside, other=0.0).to(tl.float32)
            channel += channel_step
        if spatial is not None:
            value *= tl.load(spatial + tap, inside, other=0.0).to(tl.float32)
            spatial += spatial_step
        if filter_ is not None:
            value *= tl.load(filter_ + o, inside, other=0.0).to(tl.float32)
            filter_ += filter_step
        tl.store(y + element, value, inside)
        y += size


def _rows(factor: Tensor | None) -> tuple[Tensor | None, int]:
    """A factor whose rows lie in memory as they are, and the step between them."""
    if factor is None:
        return None, 0
    if factor.stride(1) != 1:
        factor = factor.contiguous()
    return factor, factor.stride(0) if len(factor) > 1 else 0


def _power_of_2(size: int, at_most: int) -> int:
    return min(triton.next_power_of_2(size), at_most)
