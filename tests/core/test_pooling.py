"""global_average is the mean of each channel, to the precision of its type."""

import pytest
import torch

from odconv_det.core.pooling import global_average

SIZES = {
    "one pixel": (2, 5, 1, 1),
    "small": (3, 7, 5, 6),
    "empty": (0, 7, 5, 6),
    "large": (2, 24, 64, 95),
    "of a detector": (1, 96, 400, 672),
    "large, one sample": (1, 33, 100, 101),
}


def image(size, dtype, layout):
    generator = torch.Generator().manual_seed(0)
    x = 1 + torch.randn(size, generator=generator, dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_mean(size, layout):
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        x = image(SIZES[size], dtype, layout)
        expected = x.double().sum((2, 3)) / (x.shape[2] * x.shape[3])
        y = global_average(x, dtype)
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_half_precision_in_the_precision_asked_for(dtype, size, layout):
    x = image(SIZES[size], dtype, layout)
    expected = x.double().mean((2, 3))
    y = global_average(x, torch.float32)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", ["small", "large"])
def test_gradient_is_that_of_the_mean(size, layout):
    x = image(SIZES[size], torch.float64, layout).requires_grad_()
    y = global_average(x, torch.float64)
    (grad,) = torch.autograd.grad(y, x, grad_y := torch.randn_like(y))
    expected = grad_y[..., None, None].expand_as(x) / (x.shape[2] * x.shape[3])
    torch.testing.assert_close(grad, expected, rtol=1e-13, atol=1e-15)


def test_a_view_with_gaps_is_averaged_as_well():
    x = image((2, 24, 128, 190), torch.float32, torch.channels_last)
    for view in (x[..., ::2], x[:, ::2], x.transpose(2, 3)):
        torch.testing.assert_close(
            global_average(view, torch.float32), view.mean((2, 3)), rtol=1e-5, atol=1e-6
        )
