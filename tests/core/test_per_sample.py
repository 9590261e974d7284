"""Every form gives what one convolution for each sample gives, in any memory layout."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from odconv_det.core.per_sample import Geometry, backward, convolve, is_channels_last

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


class Convolutions(TorchDispatchMode):
    """Notes the kernel of every convolution, forward and backward."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        place = {"convolution": 1, "convolution_backward": 2}
        name = func.overloadpacket.__name__
        if name in place:
            self.kernels.append(args[place[name]])
        return func(*args, **(kwargs or {}))


DEPTHWISE = Geometry((1, 1), (1, 1), (1, 1), CHANNELS)


@layouts
@pytest.mark.parametrize("geometry", [PLAIN, GROUPS, DEPTHWISE])
def test_grouped_kernels_are_nchw_and_maps_keep_their_layout(geometry, layout):
    """cuDNN copies both maps if the kernel alone is channels_last."""
    x, kernels = operands(geometry, 4, 3, layout)
    if layout == "channels_last":
        kernels = kernels.movedim(2, 4).clone(memory_format=torch.contiguous_format)
        kernels = kernels.movedim(4, 2)  # of a single channel, too
    expected = convolve(x, kernels, None, geometry, "slices")
    with Convolutions() as seen:
        y = convolve(x, kernels, None, geometry, "grouped")
        grad_x, grad_kernels = backward(y, x, kernels, geometry, "grouped")
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(
        (grad_x, grad_kernels), backward(y, x, kernels, geometry, "slices")
    )
    assert len(seen.kernels) == 2
    for kernel in seen.kernels:
        assert kernel.stride() == torch.empty(kernel.shape).stride()
    for found in (y, grad_x):
        assert is_channels_last(found) == (layout == "channels_last")


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
