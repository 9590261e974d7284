"""Mixing a bank, scaling kernels, and the way back: against explicit loops."""

import itertools
from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from odconv_det import ODConv2d
from odconv_det.core.dispatch import force
from odconv_det.core.kernels import Scales, gradients, mix, modulate


class Shape(NamedTuple):
    out_channels: int = 12
    in_channels: int = 8
    groups: int = 1
    kernel_size: tuple[int, int] = (3, 3)


SHAPES = {
    "3x3": Shape(),
    "1x1": Shape(kernel_size=(1, 1)),
    "rectangular": Shape(kernel_size=(1, 5)),
    "groups": Shape(groups=4),
    "depthwise": Shape(out_channels=8, groups=8),
    "two filters for each channel": Shape(out_channels=16, groups=8),
    "one channel": Shape(out_channels=1, in_channels=1),
}
PRESENT = list(itertools.product((False, True), repeat=3))
BATCH = 3


def operands(shape, kernel_num, present, last=False, shared_filter=False):
    """Bank, kernel attention and the present scales, all of them random."""
    generator = torch.Generator().manual_seed(0)

    def random(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    width = shape.in_channels // shape.groups
    bank = random(kernel_num, shape.out_channels, width, *shape.kernel_size)
    if last:
        flat = bank.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        bank = flat.unflatten(0, bank.shape[:2])
    kernel = random(BATCH, kernel_num) if kernel_num > 1 else None
    area = shape.kernel_size[0] * shape.kernel_size[1]
    sizes = (
        (BATCH, shape.in_channels),
        (1 if shared_filter else BATCH, shape.out_channels),
        (BATCH, area),
    )
    scales = Scales(
        *(
            random(*s) if there else None
            for s, there in zip(sizes, present, strict=True)
        )
    )
    return bank, kernel, scales


def one(bank, kernel, scales, b, groups):
    """The kernel of sample ``b``, filter by filter and channel by channel."""
    channel, filter_, spatial = scales
    mixed = bank[0] if kernel is None else sum(map(torch.mul, kernel[b], bank))
    filters = []
    for o, weights in enumerate(mixed):
        planes = []
        for i, plane in enumerate(weights):
            if channel is not None:
                group = o // (len(mixed) // groups)
                plane = plane * channel[b, group * len(weights) + i]
            if spatial is not None:
                plane = plane * spatial[b].view(plane.shape)
            if filter_ is not None:
                plane = plane * filter_[b if len(filter_) > 1 else 0, o]
            planes.append(plane)
        filters.append(torch.stack(planes))
    return torch.stack(filters)


def explicit(bank, kernel, scales, groups):
    return torch.stack([one(bank, kernel, scales, b, groups) for b in range(BATCH)])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_mix_is_the_weighted_sum_of_the_bank(shape, last):
    bank, kernel, _ = operands(SHAPES[shape], 4, (False,) * 3, last)
    expected = torch.stack([sum(map(torch.mul, row, bank)) for row in kernel])
    torch.testing.assert_close(mix(bank, kernel), expected, rtol=1e-13, atol=1e-13)


def test_mix_of_a_bank_of_one_is_the_bank_itself():
    bank, kernel, _ = operands(Shape(), 1, (False,) * 3)
    assert mix(bank, kernel) is bank


def test_mix_keeps_the_layout_of_the_bank():
    for last in (False, True):
        bank, kernel, _ = operands(Shape(), 4, (False,) * 3, last)
        strides = mix(bank, kernel).stride()[1:]
        assert strides == bank.stride()[1:]


@pytest.mark.parametrize("present", PRESENT)
@pytest.mark.parametrize("kernel_num", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_modulate_equals_the_loop_over_filters_and_channels(shape, kernel_num, present):
    shape = SHAPES[shape]
    for last, shared_filter in itertools.product((False, True), repeat=2):
        tensors = operands(shape, kernel_num, present, last, shared_filter)
        before = [t.clone() for t in tree_leaves(tensors) if t is not None]
        kernels = modulate(*tensors)
        depends = kernel_num > 1 or present[0] or present[2]
        depends = depends or (present[1] and not shared_filter)
        assert len(kernels) == (BATCH if depends else 1)
        expected = explicit(*tensors, shape.groups)
        torch.testing.assert_close(
            kernels.expand_as(expected), expected, rtol=1e-13, atol=1e-13
        )
        after = [t for t in tree_leaves(tensors) if t is not None]
        assert all(map(torch.equal, before, after)), "an operand was changed"


@pytest.mark.parametrize("present", PRESENT)
@pytest.mark.parametrize("kernel_num", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_explicit_formula(shape, kernel_num, present):
    shape = SHAPES[shape]
    for last, shared_filter in itertools.product((False, True), repeat=2):
        bank, kernel, scales = operands(shape, kernel_num, present, last, shared_filter)
        named = dict(bank=bank, kernel=kernel, **scales._asdict())
        named = {k: v.requires_grad_() for k, v in named.items() if v is not None}
        kernels = explicit(bank, kernel, scales, shape.groups)
        grad = torch.randn_like(kernels)
        expected = torch.autograd.grad(kernels, list(named.values()), grad)
        with torch.no_grad():
            found = gradients(grad, bank, kernel, scales)._asdict()
        assert {name for name, g in found.items() if g is not None} == set(named)
        for name, reference in zip(named, expected, strict=True):
            assert found[name].shape == reference.shape, name
            torch.testing.assert_close(
                found[name], reference, rtol=1e-12, atol=1e-12, msg=name
            )


class Largest(TorchDispatchMode):
    """Remembers the largest number of elements that any operation gave."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return out


def test_the_largest_tensor_is_seen():
    with Largest() as seen:
        (torch.ones(7, 1) * torch.ones(1, 9)).sum()
    assert seen.elements == 63


@pytest.mark.parametrize("scale", ["kernel", "maps"])
@pytest.mark.parametrize("convolve", ["slices", "grouped", "matmul"])
@pytest.mark.parametrize("k", [1, 3])
def test_no_tensor_holds_every_kernel_of_the_bank_for_every_sample(k, convolve, scale):
    batch, layer = 4, ODConv2d(32, 48, k, padding=k // 2, kernel_num=4)
    x = torch.randn(batch, 32, 5, 5, requires_grad=True)
    with force(scale, convolve), Largest() as seen:
        layer(x).square().sum().backward()
    assert x.grad is not None
    kernels = layer.weight[0].numel() * batch
    assert kernels <= seen.elements < 2 * kernels
