"""Inputs and parameters of extreme size give finite outputs and gradients."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det import fuse, set_temperature
from odconv_det.core.dispatch import force
from odconv_det.folding import fold_batch_norms
from odconv_det.layers import CBAM, ECA, SE, DCDConv2d, DynamicConv2d
from odconv_det.layers.base import TemperedAttention
from odconv_det.layers.pointwise import Pointwise
from tests.layers.cases import VARIANTS, make, randomize
from tests.layers.passes import run

SHAPE = (2, 8, 12, 10)  # 120 pixels of 1e4 add up to more than float16 has
# Of a loss that float16 can hold the gradients of, as a scaler sees to it.
GRADIENT = 1e-4

# What autocast computes in, and what the input is stored in.
PRECISIONS = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.float32),
    "float16": (torch.float16, torch.float32),
    "float16 maps": (torch.float16, torch.float16),
}
each_precision = pytest.mark.parametrize("precision", PRECISIONS)

MODULES = {
    **{
        name: lambda name=name: make(name, kernel_size=3, padding=1)
        for name in VARIANTS
    },
    **{cls.__name__: lambda cls=cls: randomize(cls(8)) for cls in (SE, CBAM, ECA)},
}
each_module = pytest.mark.parametrize("name", MODULES)


def _has(name: str, kind: type[nn.Module]) -> bool:
    return any(isinstance(m, kind) for m in MODULES[name]().modules())


NORMED = [name for name in MODULES if _has(name, _BatchNorm)]
BIASED = [
    (name, temperature)
    for name in MODULES
    if any(
        n.endswith(("fc.bias", "fc2.bias"))
        for n, _ in MODULES[name]().named_parameters()
    )
    for temperature in ([1e-6, 1.0, 1e6] if _has(name, TemperedAttention) else [None])
]


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _mixture() -> Tensor:
    values = torch.tensor([1e4, -1e4, 1e-30, -1e-30, 0.0])
    return values[_noise(*SHAPE).mul(100).long().remainder(5)]


INPUTS: dict[str, Callable[[], Tensor]] = {
    "1e-30": lambda: torch.full(SHAPE, 1e-30),
    "1e4": lambda: torch.full(SHAPE, 1e4),
    "-1e4": lambda: torch.full(SHAPE, -1e4),
    "plus and minus 1e4": lambda: 1e4 * _noise(*SHAPE).sign(),
    "mixture": _mixture,
    "constant": lambda: torch.full(SHAPE, 0.7),
    "zeros": lambda: torch.zeros(SHAPE),
}
each_input = pytest.mark.parametrize("kind", INPUTS)


def _module(name: str) -> nn.Module:
    """One whose results fit into float16 for inputs of 1e4."""
    torch.manual_seed(0)
    module = MODULES[name]()
    with torch.no_grad():
        if isinstance(module, DynamicConv2d):
            module.weight.mul_(0.02)
        if isinstance(module, DCDConv2d):
            # Its dynamic matrix is made of the input and multiplies the input.
            module.attention.reduce.weight.mul_(1e-4)
    return module


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def _precisely(precision: str) -> AbstractContextManager[object]:
    dtype, _ = PRECISIONS[precision]
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)


def _assert_finite(module: nn.Module, x: Tensor, precision: str) -> None:
    """Its exact results fit into their type, and those that it gives are finite.

    But for the gradient of a static convolution within: where a BatchNorm without
    variance multiplies what is rounded to half precision by 300, and the sum over the
    positions should cancel, that convolution by itself has none either.
    """
    dtype, stored = PRECISIONS[precision]
    x = x.to(stored)
    exact_module = copy.deepcopy(module).double()
    y = copy.deepcopy(exact_module)(x.double())
    grad = GRADIENT * _noise(*y.shape)
    exact = run(exact_module, x.double().requires_grad_(), grad)
    for name, value in exact.items():
        # What convolutions give; all else is in float32.
        half = name in ("y", "x", "weight", "fusion.expand.weight")
        limit = torch.finfo(dtype if half else torch.float32).max
        assert value.abs().max() < limit, f"the case is wrong: {name} is too large"

    def autocast(module: nn.Module, x: Tensor) -> Tensor:
        with _precisely(precision):
            return module(x)

    seen: list[Tensor] = []
    if isinstance(module, DCDConv2d):
        module.fusion.bn1.register_full_backward_hook(
            lambda norm, into, out: seen.append(out[0])
        )
    found = run(module, x.requires_grad_(), grad, autocast)
    assert set(found) == set(exact)
    lost = [name for name, value in found.items() if not value.isfinite().all()]
    if lost == ["fusion.squeeze.weight"]:
        with _precisely(precision):
            static = _static_gradient(module.fusion, x.detach(), *seen)
        assert not static.isfinite().all()
    else:
        assert lost == []


def _static_gradient(fusion: nn.Module, x: Tensor, grad: Tensor) -> Tensor:
    """Of a 1x1 convolution with BatchNorm behind it, as DCD's first ones are."""
    conv = nn.Conv2d(x.shape[1], grad.shape[1], 1, bias=False)
    conv.load_state_dict(fusion.squeeze.state_dict())
    norm = copy.deepcopy(fusion.bn1)
    norm(conv(x).float()).backward(grad)
    return conv.weight.grad


@each_input
@each_precision
@each_module
def test_any_input_trains(name, precision, kind):
    _assert_finite(_module(name).train(), INPUTS[kind](), precision)


@each_precision
@pytest.mark.parametrize("kind", ["constant", "mixture", "zeros"])
@pytest.mark.parametrize("name", NORMED)
def test_any_input_is_evaluated_with_its_own_statistics(name, kind, precision):
    """Those of a constant mostly have no variance at all."""
    module, x = _module(name), INPUTS[kind]()
    for norm in _norms(module):
        norm.momentum = 1.0
    with torch.no_grad(), _precisely(precision):
        module.train()(x)
    _assert_finite(module.eval(), x, precision)


LOGITS = {
    "high": lambda n: torch.full((n,), 6e4),
    "low": lambda n: torch.full((n,), -6e4),
    "both": lambda n: 1e4 * (1 - 2.0 * (torch.arange(n) % 2)),
}


@pytest.mark.parametrize("logits", LOGITS)
@each_precision
@pytest.mark.parametrize("name, temperature", BIASED)
def test_saturated_attentions_train(name, temperature, precision, logits):
    module = _module(name)
    if temperature is not None:
        set_temperature(module, temperature)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, Pointwise) and part.bias is not None:
                part.bias.copy_(LOGITS[logits](len(part.bias)))
    _assert_finite(module.train(), _noise(*SHAPE), precision)


@each_precision
@pytest.mark.parametrize("gain", [1e4, -1e4])
@each_module
def test_steep_attentions_train(name, gain, precision):
    """Also those without a bias: their logits are large as soon as they are not 0."""
    module = _module(name)
    attention = getattr(module, "attention", module)
    steep = [
        parameter
        for key, parameter in attention.named_parameters()
        # What a sigmoid or softmax is behind.
        if parameter.dim() > 1 and key.split(".")[0] not in ("reduce", "fusion_fc")
    ]
    assert steep
    with torch.no_grad():
        for parameter in steep:
            parameter.mul_(gain)
    _assert_finite(module.train(), _noise(*SHAPE), precision)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-2])
@each_precision
@pytest.mark.parametrize("name", VARIANTS)
def test_a_constant_kernel_trains(name, precision, value):
    module = _module(name)
    nn.init.constant_(module.weight, value)
    _assert_finite(module.train(), _noise(*SHAPE), precision)


def _folded(network: nn.Module) -> nn.Module:
    assert fold_batch_norms(network) == ["0"]
    return network


EDGE = [
    "ODConv2d",
    "ODConv2d 1x",
    "DyConv2d",
    "CGConv2d",
    "WeightNetConv2d",
    "WEConv2d",
]


@pytest.mark.parametrize("scale", ["kernel", "maps"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", EDGE)
def test_is_finite_in_float16_where_the_static_convolution_is(name, sign, scale):
    """Up to the limit: attentions of at most 1 on the way must not pass it either."""
    module = _module(name)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    # Nine values of eight channels in the middle of the map.
    with torch.no_grad():
        module.weight.mul_(6.5e4 / (72 * 1e4))
    x = torch.full(SHAPE, sign * 1e4, dtype=torch.float16)
    static = nn.Conv2d(8, 12, 3, padding=1, bias=False)
    for kernel in module.weight.detach().view(-1, *static.weight.shape):
        static.weight = nn.Parameter(kernel)
        with torch.autocast("cpu", torch.float16):
            y = static(x)
            assert y.isfinite().all()
            assert not (1.02 * y).isfinite().all()
    with torch.autocast("cpu", torch.float16), force(scale=scale):
        y = module(x)
        assert y.dtype == torch.float16
        assert y.isfinite().all()


FUSED = ["ODConv2d", "DyConv2d", "CondConv2d"]
FOLDED = [*FUSED, "DCDConv2d", "CGConv2d", "WeightNetConv2d"]


@pytest.mark.parametrize("kind", ["1e-30", "1e4", "mixture", "constant"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "name, way",
    [(name, _folded) for name in FOLDED] + [(name, fuse) for name in FUSED],
)
def test_with_its_norm_applied_it_is_finite(name, way, precision, kind):
    """Also a norm that has seen no variance, whose factor is 300."""
    network = nn.Sequential(_module(name), nn.BatchNorm2d(12), nn.ReLU())
    x = INPUTS[kind]()
    for norm in _norms(network):
        norm.momentum = 1.0
    with torch.no_grad(), _precisely(precision):
        network.train()(x)
        network = way(network.eval())
        assert network(x).isfinite().all()
