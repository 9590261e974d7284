"""Sums over a map whose result half precision cannot hold."""

import pytest
import torch

from odconv_det.core import sums
from odconv_det.core.sums import spread, summed, with_bias

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def always(monkeypatch):
    """Take the way of half precision in float64 too, to see what it computes."""
    monkeypatch.setattr(sums, "_in_half", lambda x, value: True)


def plus(x):
    """A convolution that does nothing else than to add its bias."""
    return lambda bias: x + bias[:, None, None].to(x.dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_sum_of_half_precision_is_exact(dtype):
    grad = torch.ones(2, 3, 160, 256, dtype=dtype)
    total = summed(grad, (0, 2, 3), torch.float32)
    assert total.tolist() == [81920.0] * 3
    assert torch.equal(spread_gradient(grad), torch.full((2, 3, 1, 1), 40960.0))


def test_float64_stays_float64():
    grad = torch.tensor([[1.0], [2.0**-40]], dtype=torch.float64)
    total = summed(grad, (0,), torch.float64)
    assert total.dtype == torch.float64
    assert total.item() == 1 + 2.0**-40


def spread_gradient(grad):
    value = torch.rand(2, 3, 1, 1, requires_grad=True)
    return torch.autograd.grad(spread(value, grad), value, grad)[0]


def test_a_spread_value_has_no_memory_of_its_own():
    value, x = torch.rand(2, 3, 1, 1), torch.rand(2, 3, 5, 7)
    y = spread(value, x)
    assert torch.equal(y, value.expand(2, 3, 5, 7))
    assert y.data_ptr() == value.data_ptr()
    assert spread(value, x.half()).dtype == torch.float16


def test_gradients_are_those_of_plain_broadcasting(always):
    draw = dict(dtype=torch.float64, requires_grad=True)
    x, bias = torch.rand(2, 3, 4, 5, **draw), torch.rand(3, **draw)
    scale = torch.rand(2, 1, 4, 5, **draw)
    plain = (x.square() + bias[:, None, None]) * scale
    own = with_bias(plus(x.square()), bias, x)
    own = own * spread(scale, own)
    expected, found = (
        torch.autograd.grad(y.sin().sum(), (x, bias, scale)) for y in (plain, own)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", HALVES)
def test_of_a_bias_the_sum_is_in_float32(dtype):
    x, bias = torch.zeros(2, 3, 160, 256, dtype=dtype), torch.zeros(3)
    y = with_bias(plus(x), bias.requires_grad_(), x)
    (grad,) = torch.autograd.grad(y, bias, torch.ones_like(y))
    assert grad.tolist() == [81920.0] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_frozen_gets_no_gradient(dtype):
    x = torch.rand(2, 3, 4, 5).to(dtype).requires_grad_()
    assert not spread(torch.rand(2, 3, 1, 1), x).requires_grad
    bias = torch.rand(3)
    with_bias(plus(x), bias, x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert bias.grad is None
    assert with_bias(lambda bias: bias, None, x) is None


def test_the_map_can_be_changed_in_place_and_is_no_copy():
    x, bias = torch.rand(2, 3, 4, 5).half(), torch.rand(3, requires_grad=True)
    y = with_bias(lambda bias: x, bias, x)
    assert y.data_ptr() == x.data_ptr()
    y.relu_().sum().backward()
    assert torch.equal(bias.grad, torch.full((3,), 40.0))


def test_both_can_be_differentiated_twice(always):
    bias = torch.rand(3, dtype=torch.float64, requires_grad=True)
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    y = with_bias(plus(x), bias, x) ** 3
    y = y * spread(bias[None, :, None, None], x)
    (first,) = torch.autograd.grad(y.sum(), bias, create_graph=True)
    z = (x + bias[:, None, None]) ** 3 * bias[:, None, None]
    (other,) = torch.autograd.grad(z.sum(), bias, create_graph=True)
    torch.testing.assert_close(first, other)
    torch.testing.assert_close(
        torch.autograd.grad(first.sum(), bias), torch.autograd.grad(other.sum(), bias)
    )
