"""Every form gives what one convolution for each sample gives, in any memory layout."""

import pytest
import torch
import torch.nn.functional as F

from odconv_det.core.per_sample import Geometry, backward, convolve

BATCH, CHANNELS = 3, 4
PLAIN = Geometry((1, 1), (1, 1), (1, 1), 1)
STRIDED = Geometry((2, 1), (0, 2), (1, 2), 1)
GROUPS = Geometry((1, 1), (1, 1), (1, 1), 2)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def filters_last(kernels):
    """The same with the filters nearest to each other in memory, then the channels."""
    return kernels.permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2)


def operands(geometry, filters, size, layout, batch=BATCH):
    generator = torch.Generator().manual_seed(0)
    draw = dict(generator=generator, dtype=torch.float64)
    x = torch.randn(batch, CHANNELS, 7, 6, **draw)
    shape = (batch, filters, CHANNELS // geometry.groups, size, size)
    kernels = torch.randn(shape, **draw)
    if layout == "channels_first":
        return x, kernels
    return channels_last(x), filters_last(kernels)


def one_by_one(x, kernels, geometry):
    return torch.cat(
        [
            F.conv2d(x[b : b + 1].contiguous(), k.contiguous(), None, *geometry)
            for b, k in enumerate(kernels)
        ]
    )


cases = pytest.mark.parametrize(
    "form, geometry, filters, size",
    [
        ("slices", PLAIN, 1, 3),
        ("slices", STRIDED, 5, 3),
        ("slices", GROUPS, 2, 3),
        ("grouped", PLAIN, 1, 3),
        ("grouped", STRIDED, 5, 3),
        ("grouped", GROUPS, 2, 3),
        ("matmul", Geometry((1, 1), (0, 0), (1, 1), 1), 1, 1),
        ("matmul", Geometry((2, 1), (0, 0), (1, 1), 1), 5, 1),
    ],
)
layouts = pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
batches = pytest.mark.parametrize("batch", [1, BATCH])


@cases
@layouts
@batches
def test_the_result_is_not_a_view(form, geometry, filters, size, layout, batch):
    """Which nothing may change in place behind a checkpoint."""
    x, kernels = operands(geometry, filters, size, layout, batch)
    with torch.no_grad():
        y = convolve(x, kernels, None, geometry, form)
    assert not y._is_view()
    with torch.enable_grad():
        y = convolve(x, kernels.requires_grad_(), None, geometry, form)
    assert not y._is_view()


@cases
@layouts
@batches
def test_forward_and_backward(form, geometry, filters, size, layout, batch):
    x, kernels = operands(geometry, filters, size, layout, batch)
    inputs = [t.clone().requires_grad_() for t in (x, kernels)]
    expected = one_by_one(*inputs, geometry)
    y = convolve(x, kernels, None, geometry, form)
    torch.testing.assert_close(y, expected)

    grad_y = torch.randn_like(expected)
    if layout == "channels_last":
        grad_y = channels_last(grad_y)
    grads = backward(grad_y, x, kernels, geometry, form)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, inputs, grad_y))
    without = backward(grad_y, x, kernels, geometry, form, need_x=False)
    assert without[0] is None
    torch.testing.assert_close(without[1], grads[1])


@layouts
@pytest.mark.parametrize("filters", [1, 5])
def test_one_kernel_for_all_samples(filters, layout):
    x, kernels = operands(PLAIN, filters, 3, layout)
    x, kernels = x.requires_grad_(), kernels[:1].requires_grad_()
    expected = one_by_one(x, kernels.expand(BATCH, -1, -1, -1, -1), PLAIN)
    y = convolve(x, kernels, None, PLAIN, "shared")
    torch.testing.assert_close(y, expected)
    grad_y = torch.randn_like(expected)
    found = torch.autograd.grad(y, (x, kernels), grad_y)
    torch.testing.assert_close(
        found, torch.autograd.grad(expected, (x, kernels), grad_y)
    )
