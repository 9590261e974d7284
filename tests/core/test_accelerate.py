"""The switch of the Triton kernels."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d
from odconv_det.core import accelerate, kernels
from odconv_det.core.kernels import Scales
from odconv_det.fusion import fuse
from tests.needs import needs_compile, needs_triton

MODULE = "odconv_det.core.triton_kernels"


@pytest.fixture(autouse=True)
def _restored():
    with accelerate.use_triton(False):
        yield


def network():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU(),
        ODConv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        ODConv2d(16, 16, 3, groups=16, kernel_num=1),
        ODConv2d(16, 4, 1),
    )
    return fuse(nn.Sequential(*layers).eval())


def called(monkeypatch):
    """The names of the Triton kernels that ran, in order."""
    from odconv_det.core import triton_kernels

    names = []

    def counted(name):
        function = getattr(triton_kernels, name)

        def call(*args):
            names.append(name)
            return function(*args)

        return call

    for name in ("pool", "attend", "modulate"):
        monkeypatch.setattr(triton_kernels, name, counted(name))
    return names


def test_nothing_imports_the_kernels_unasked():
    code = f"import sys, odconv_det.fusion; assert {MODULE!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_triton
def test_a_fused_network_gives_the_same_with_the_kernels(monkeypatch):
    names = called(monkeypatch)
    net, x = network(), torch.randn(2, 3, 17, 19)
    with torch.no_grad():
        expected = net(x)
        assert not names
        with accelerate.use_triton():
            own = net(x)
    assert names == ["pool", "attend", "modulate"] * 3
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


@needs_triton
def test_the_switch_stays_or_ends_with_its_block(monkeypatch):
    names = called(monkeypatch)
    x = torch.randn(1, 3, 4, 4)

    def on():
        names.clear()
        accelerate.pool(x, torch.float32)
        return names == ["pool"]

    assert not on()
    with accelerate.use_triton():
        assert on()
        with accelerate.use_triton(False):
            assert not on()
        assert on()
    assert not on()
    accelerate.use_triton()
    assert on()
    accelerate.use_triton(False)
    assert not on()


@needs_triton
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(1, 3, 4, 4).double(),
        torch.randn(1, 3, 4, 4).requires_grad_(),
        torch.randn(0, 3, 4, 4),
    ],
    ids=["float64", "gradient", "no sample"],
)
def test_what_the_kernels_cannot_do_is_left_to_torch(monkeypatch, x):
    names = called(monkeypatch)
    with accelerate.use_triton():
        pooled = accelerate.pool(x, x.dtype)
    assert not names
    assert torch.equal(pooled, x.mean((2, 3)))


def test_off_it_is_the_torch_version():
    bank, kernel = torch.randn(4, 6, 5, 3, 3), torch.rand(2, 4)
    scales = Scales(torch.rand(2, 5), torch.rand(2, 6), None)
    own = accelerate.modulate(bank, kernel, scales, torch.float16)
    assert torch.equal(own, kernels.modulate(bank, kernel, scales).half())
    nothing = torch.rand(2, 5), *(torch.rand(1) for _ in range(4)), [1, 0, 0, 0]
    assert accelerate.attend(*nothing) is None


@needs_triton
def test_training_with_the_kernels_has_the_same_gradients(monkeypatch):
    names = called(monkeypatch)
    layer, x = ODConv2d(6, 8, 3), torch.randn(2, 6, 5, 5)
    layer.eval()
    layer(x).sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    with accelerate.use_triton():
        layer(x).sum().backward()
    assert names == ["modulate", "modulate"]
    for parameter, grad in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, atol=1e-4, rtol=1e-4)


@needs_compile
def test_a_compiled_network_is_one_graph_that_leaves_the_kernels_out(monkeypatch):
    def unseen(*args):
        torch._dynamo.graph_break()

    stand_in = SimpleNamespace(available=lambda x: True)
    stand_in.pool = stand_in.attend = stand_in.modulate = unseen
    monkeypatch.setitem(accelerate._using, "kernels", stand_in)
    net, x = network(), torch.randn(2, 3, 17, 19)
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad():
        y = compiled(x)
        with accelerate.use_triton(False):
            torch.testing.assert_close(y, net(x))


def test_without_triton_the_switch_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(RuntimeError, match="pip install triton$"):
        accelerate.use_triton()
    assert accelerate.use_triton(False)


def test_an_old_triton_is_named(monkeypatch):
    old = SimpleNamespace(triton=SimpleNamespace(__version__="3.0.0"))
    monkeypatch.setitem(sys.modules, MODULE, old)
    with pytest.raises(RuntimeError, match="triton 3.0.0 is too old.*need 3.4.*2.8"):
        accelerate.use_triton()
    assert accelerate.attend(*[torch.rand(2, 5)] * 5, [1, 0, 0, 0]) is None
