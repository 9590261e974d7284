"""The dynamic convolution as one function: same values, same gradients, less memory."""

import copy
import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from odconv_det.core.dispatch import force
from odconv_det.layers import ODAttention
from tests.layers.cases import GEOMETRIES, image, make
from tests.needs import needs_compile
from tests.oracle import odconv2d_oracle

CASES = {
    **GEOMETRIES,
    "1x1 strided": dict(kernel_size=1, stride=2),
    "1x1 stride pair": dict(kernel_size=1, stride=(1, 3)),
    "1x1 padded": dict(kernel_size=1, padding=1),
    "1x1 depthwise": dict(kernel_size=1, out_channels=8, groups=8),
    "1x1 grouped": dict(kernel_size=1, groups=2),
    "without a bias": dict(kernel_size=3, bias=False),
}
PLANS = [
    (case, kernel_num, scale, convolve)
    for case, geometry in CASES.items()
    for kernel_num in (1, 4)
    for scale in ("kernel", "maps")
    for convolve in ("slices", "grouped", "matmul", "shared")
    if convolve != "matmul"
    or (geometry["kernel_size"] == 1 and not {"padding", "groups"} & set(geometry))
    if convolve != "shared" or (geometry["kernel_size"] == 1 and kernel_num == 1)
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def gradients(layer, x, y, grad_y):
    inputs = {"x": x, **dict(layer.named_parameters())}
    found = torch.autograd.grad(y, list(inputs.values()), grad_y)
    return dict(zip(inputs, found, strict=True))


def prepared(case, kernel_num, batch=3):
    layer = make("ODConv2d", kernel_num=kernel_num, **CASES[case]).double().eval()
    return layer, image(batch, dtype=torch.float64).requires_grad_()


@functools.cache
def expected(case, kernel_num, batch=3):
    """Output, its gradient, and those of everything, by the oracle."""
    layer, x = prepared(case, kernel_num, batch)
    y = odconv2d_oracle(layer, x)
    generator = torch.Generator().manual_seed(2)
    grad_y = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return y.detach(), grad_y, gradients(layer, x, y, grad_y)


def same(found, reference, tolerance=1e-10):
    assert set(found) == set(reference)
    for name, gradient in reference.items():
        scale = tolerance * max(gradient.abs().max().item(), 1e-3)
        torch.testing.assert_close(
            found[name], gradient, rtol=0, atol=scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("case, kernel_num, scale, convolve", PLANS)
def test_every_plan_equals_the_oracle(case, kernel_num, scale, convolve):
    y_expected, grad_y, reference = expected(case, kernel_num)
    for layout in LAYOUTS:
        layer, x = prepared(case, kernel_num)
        layer.to(memory_format=layout)
        inputs = x.to(memory_format=layout)
        with force(scale, convolve):
            y = layer(inputs)
            with torch.no_grad():
                same({"y": layer(inputs)}, {"y": y_expected})
        same({"y": y}, {"y": y_expected})
        same(gradients(layer, x, y, grad_y.to(memory_format=layout)), reference)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kernel_num", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_the_chosen_plan_equals_the_oracle(case, kernel_num, batch):
    y_expected, grad_y, reference = expected(case, kernel_num, batch)
    layer, x = prepared(case, kernel_num, batch)
    y = layer(x)
    same({"y": y}, {"y": y_expected})
    same(gradients(layer, x, y, grad_y), reference)


@pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise", "strided"])
def test_takes_inputs_and_gradients_with_gaps_in_memory(case):
    y_expected, grad_y, reference = expected(case, 4)
    layer, x = prepared(case, 4)
    gaps = torch.stack([x, x], 4)[..., 0]
    assert not gaps.is_contiguous()
    y = layer(gaps)
    same({"y": y}, {"y": y_expected})
    spread = torch.stack([grad_y, grad_y], 4)[..., 0]
    same(gradients(layer, x, y, spread), reference)


@pytest.mark.parametrize("convolve", ["slices", "grouped", "matmul"])
@pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise"])
def test_gradients_are_those_of_finite_differences(case, convolve):
    layer, _ = prepared(case, 2)
    x = image(2, 4, 3, dtype=torch.float64).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *values):
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, state, (x,))

    with force(convolve=convolve):
        assert torch.autograd.gradcheck(call, (x, *layer.parameters()), fast_mode=True)


class TestSecondDerivative:
    def test_raises(self):
        layer, x = prepared("3x3", 4)
        y = layer(x).square().sum()
        (grad,) = torch.autograd.grad(y, x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated once"):
            grad.square().sum().backward()

    def test_raises_behind_a_linear_loss_too(self):
        layer, x = prepared("3x3", 4)
        (grad,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated once"):
            (grad.square().sum() + layer.weight.sum()).backward()


def saved_by(network, x):
    """Output, and every tensor that was saved for backward on the way there."""
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = network(x)
    return y, saved


class TestMemory:
    @pytest.mark.parametrize("convolve", ["slices", "grouped", "matmul"])
    @pytest.mark.parametrize("scale", ["kernel", "maps"])
    @pytest.mark.parametrize("kernel_num", [1, 4])
    @pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise"])
    def test_saves_the_input_the_bank_and_small_things(
        self, case, kernel_num, scale, convolve
    ):
        layer = make("ODConv2d", kernel_num=kernel_num, **CASES[case]).eval()
        x = image(2, 40, 50).requires_grad_()
        with force(scale, convolve):
            y, saved = saved_by(layer, x)
        known = {t.data_ptr() for t in (x, *layer.parameters(), *layer.buffers())}
        assert x.data_ptr() in {t.data_ptr() for t in saved}
        other = [t for t in saved if t.data_ptr() not in known]
        heads = [head for head in layer.attention.heads() if head is not None]
        values = sum(head.bias.numel() for head in heads)
        # Attentions, their logits and the trunk: one row for each sample.
        assert other
        assert max(t.numel() for t in other) <= 2 * max(values, *heads[0].weight.shape)
        assert y.numel() > 2 * max(t.numel() for t in other)

    def test_autocast_saves_the_input_in_half_precision(self):
        layer = make("ODConv2d", kernel_num=4, kernel_size=3, padding=1).eval()
        x = image(2, 40, 50).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, saved = saved_by(layer, x)
        maps = [t for t in saved if t.shape == x.shape]
        assert [t.dtype for t in maps] == [torch.bfloat16]

    def test_inference_saves_nothing(self):
        layer = (
            make("ODConv2d", kernel_num=4, kernel_size=3, padding=1)
            .eval()
            .requires_grad_(False)
        )
        y, saved = saved_by(layer, image())
        assert saved == []
        assert not y.requires_grad


class TestFrozenParts:
    @pytest.mark.parametrize("convolve", ["slices", "grouped", "matmul"])
    @pytest.mark.parametrize("case", ["3x3", "1x1", "1x1 strided", "depthwise"])
    def test_an_input_that_needs_no_gradient_changes_no_other(self, case, convolve):
        _, grad_y, reference = expected(case, 4)
        layer, x = prepared(case, 4)
        with force(convolve=convolve):
            layer(x.detach()).backward(grad_y)
        found = {name: p.grad for name, p in layer.named_parameters()}
        same(found, {k: v for k, v in reference.items() if k != "x"})
        assert x.grad is None

    @pytest.mark.parametrize("part", ["weight", "bias", "attention"])
    def test_a_frozen_part_gets_no_gradient_and_changes_no_other(self, part):
        _, grad_y, reference = expected("3x3", 4)
        layer, x = prepared("3x3", 4)
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(not name.startswith(part))
        layer(x).backward(grad_y)
        found = {"x": x.grad, **{n: p.grad for n, p in layer.named_parameters()}}
        frozen = {name for name, gradient in found.items() if gradient is None}
        assert frozen == {name for name in reference if name.startswith(part)}
        same(
            {n: g for n, g in found.items() if g is not None},
            {n: g for n, g in reference.items() if n not in frozen},
        )


@pytest.mark.parametrize("convolve", ["slices", "grouped", "matmul", "shared"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kernel_num", [1, 4])
def test_the_output_can_be_changed_in_place(kernel_num, batch, convolve):
    for case in ("1x1", "3x3"):
        layer, x = prepared(case, kernel_num, batch)
        reference = gradients(
            layer, x, y := torch.relu(odconv2d_oracle(layer, x)), torch.ones_like(y)
        )
        with force(convolve=convolve):
            y = F.relu_(layer(x))
        same(gradients(layer, x, y, torch.ones_like(y)), reference)


def test_backward_can_be_run_twice():
    _, grad_y, _ = expected("3x3", 4)
    layer, x = prepared("3x3", 4)
    y = layer(x)
    first = torch.autograd.grad(y, [x, layer.weight], grad_y, retain_graph=True)
    second = torch.autograd.grad(y, [x, layer.weight], grad_y)
    assert all(map(torch.equal, first, second))


def test_changing_the_input_before_backward_is_an_error():
    layer, x = prepared("3x3", 4)
    x = x * 1
    y = layer(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(use_reentrant):
    _, grad_y, reference = expected("3x3", 4)
    layer, x = prepared("3x3", 4)
    y = checkpoint(layer, x, use_reentrant=use_reentrant)
    y.backward(grad_y)
    same({"x": x.grad, **{n: p.grad for n, p in layer.named_parameters()}}, reference)


class TestAutocast:
    @pytest.mark.parametrize("convolve", ["slices", "grouped", "matmul"])
    @pytest.mark.parametrize("scale", ["kernel", "maps"])
    @pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise"])
    def test_gradients_are_close_and_in_the_parameters_precision(
        self, case, scale, convolve
    ):
        _, grad_y, reference = expected(case, 4)
        layer = make("ODConv2d", kernel_num=4, **CASES[case]).eval()
        x = image(3).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16), force(scale, convolve):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        found = gradients(layer, x, y, grad_y.bfloat16())
        assert {g.dtype for g in found.values()} == {torch.float32}
        same({name: g.double() for name, g in found.items()}, reference, 0.06)

    def test_float64_stays_float64(self):
        layer, x = prepared("3x3", 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.float64
        same({"y": y}, {"y": expected("3x3", 4)[0]})


@needs_compile
@pytest.mark.parametrize("case, batch", [("1x1", 1), ("depthwise", 2)])
def test_compiles_as_one_graph_forward_and_backward(case, batch):
    _, grad_y, reference = expected(case, 4, batch)
    layer, x = prepared(case, 4, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        y = compiled(x)
    same(gradients(layer, x, y, grad_y), reference)


def test_a_deep_copy_of_a_used_layer_gives_the_same_gradients():
    _, grad_y, reference = expected("3x3", 4)
    layer, x = prepared("3x3", 4)
    layer(x).sum().backward()
    clone = copy.deepcopy(layer)
    same(gradients(clone, x, clone(x), grad_y), reference)


def test_layers_of_other_modules_are_differentiated_through():
    """The attention sees the input as well: both ways to it add up."""
    torch.manual_seed(0)
    layer, x = prepared("3x3", 4)
    before, after = nn.Conv2d(8, 8, 1).double(), nn.Conv2d(12, 3, 1).double()
    assert isinstance(layer.attention, ODAttention)
    found = torch.autograd.grad(after(layer(before(x))).square().sum(), x)
    y = after(odconv2d_oracle(layer, before(x))).square().sum()
    same({"x": found[0]}, {"x": torch.autograd.grad(y, x)[0]})
