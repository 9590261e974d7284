"""OutputReLU6 is nn.ReLU6 that saves another map."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from odconv_det.core.relu6 import OutputReLU6

EDGES = [-float("inf"), -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 5.999, 6.0, 6.001, 7.0]


def edges(dtype=torch.float32):
    return torch.tensor(EDGES, dtype=dtype).view(1, 1, 1, -1).requires_grad_()


def saved_by(module, x):
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = module(x)
    return y, saved


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inplace", [False, True])
def test_values_and_gradients_are_those_of_relu6_at_the_edges_too(inplace, dtype):
    results = []
    for cls in (nn.ReLU6, OutputReLU6):
        x = edges(dtype)
        y = cls(inplace)(x * 1)
        (grad,) = torch.autograd.grad(y, x, torch.full_like(y, 3))
        results.append((y, grad))
    (expected, expected_grad), (y, grad) = results
    assert torch.equal(y, expected)
    assert torch.equal(grad, expected_grad)
    assert grad.any()
    assert not grad.all()


def test_passes_not_a_number_on():
    assert OutputReLU6()(torch.tensor([float("nan")])).isnan().all()
    assert OutputReLU6()(torch.tensor([float("nan")]).requires_grad_()).isnan().all()


@pytest.mark.parametrize("inplace", [False, True])
def test_saves_its_output_and_nothing_else(inplace):
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    y, saved = saved_by(OutputReLU6(inplace), x * 9)
    assert [t.data_ptr() for t in saved] == [y.data_ptr()]


def test_a_convolution_behind_it_saves_the_same_map():
    conv = nn.Conv2d(3, 3, 1)
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    _, saved = saved_by(lambda x: conv(OutputReLU6()(x)), x)
    maps = [t for t in saved if t.shape == x.shape]
    assert len(maps) == 2
    assert len({t.data_ptr() for t in maps}) == 1


@pytest.mark.parametrize("grad", [False, True])
def test_inference_is_in_place_if_asked_for(grad):
    x = torch.tensor([-1.0, 3.0, 9.0])
    with torch.set_grad_enabled(grad):
        assert OutputReLU6(inplace=False)(x) is not x
        assert x.tolist() == [-1, 3, 9]
        assert OutputReLU6(inplace=True)(x).data_ptr() == x.data_ptr()
    assert x.tolist() == [0, 3, 6]


def test_keeps_the_memory_layout():
    x = torch.randn(2, 8, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = OutputReLU6()(x)
    y.sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_a_second_derivative_raises():
    x = edges()
    y = OutputReLU6()(x)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        grad.sum().backward()


def test_compiles_as_one_graph():
    module = nn.Sequential(nn.Conv2d(3, 3, 1), OutputReLU6())
    eager = copy.deepcopy(module)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = 4 * torch.randn(2, 3, 4, 5)
    for network in (compiled, eager):
        network(x).sum().backward()
    torch.testing.assert_close(module[0].weight.grad, eager[0].weight.grad)
