"""One call for convolution, bias, residual and activation: what it gives, exactly."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from odconv_det.core.per_sample import Geometry
from odconv_det.fusion import convolution
from odconv_det.fusion.convolution import convolve, one_call_works

GEOMETRIES = {
    "3x3": ((8, 8, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 1)),
    "1x1": ((8, 8, 1, 1), Geometry((1, 1), (0, 0), (1, 1), 1)),
    "1x1 strided": ((8, 8, 1, 1), Geometry((2, 2), (0, 0), (1, 1), 1)),
    "dilated": ((4, 8, 3, 3), Geometry((1, 2), (2, 0), (2, 1), 1)),
    "grouped": ((8, 2, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 4)),
    "depthwise": ((8, 1, 5, 5), Geometry((2, 2), (2, 2), (1, 1), 8)),
}
ACTIVATIONS = {"none": lambda y: y, "relu": F.relu, "relu6": F.relu6}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
BATCHES = (0, 1, 3)


@pytest.fixture(params=["one call", "separate calls"])
def calls(request, monkeypatch):
    """With torch's fused operators, and where torch has none."""
    if request.param == "separate calls":
        monkeypatch.setattr(convolution, "one_call_works", lambda *_: False)
    return request.param


def random(*size, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)


def forms(geometry, shape):
    pointwise = shape[2:] == (1, 1)
    return ["slices", "grouped", "shared", *["matmul"] * pointwise]


def operands(geometry, batch, form, layout, dtype=torch.float32):
    shape, geometry = GEOMETRIES[geometry]
    x = random(batch, 8, 9, 10, dtype=dtype).contiguous(memory_format=layout)
    own = 1 if form == "shared" else batch
    kernels = random(own, *shape, seed=1, dtype=dtype)
    return x, kernels, random(shape[0], seed=2, dtype=dtype), geometry


def explicit(x, kernels, bias, geometry, activation, residual):
    """In float64, each sample with its own kernel, each step by itself."""
    kernels = kernels.expand(len(x), *kernels.shape[1:])
    bias = None if bias is None else bias.double()
    ys = [
        F.conv2d(sample[None], kernel, bias, *geometry)
        for sample, kernel in zip(x.double(), kernels.double(), strict=True)
    ]
    y = (
        torch.cat(ys)
        if ys
        else F.conv2d(x.double(), kernels.double().sum(0), bias, *geometry)
    )
    y = y if residual is None else y + residual.double()
    return ACTIVATIONS[activation](y)


def assert_close(y, expected, tolerance):
    assert y.shape == expected.shape
    if y.numel():
        error = (y.double() - expected).abs().max()
        assert error <= tolerance * expected.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_each_step_by_itself(geometry, activation, layout, calls):
    layout, done = LAYOUTS[layout], 0
    for form in forms(geometry, GEOMETRIES[geometry][0]):
        for batch, with_bias, joined, overwrite in itertools.product(
            BATCHES, (False, True), (False, True), (False, True)
        ):
            if form in ("grouped", "shared") and not batch:
                continue
            x, kernels, bias, where = operands(geometry, batch, form, layout)
            bias = bias if with_bias else None
            plain = explicit(x, kernels, bias, where, "none", None)
            residual = None
            if joined:
                residual = random(*plain.shape, seed=3)
                residual = residual.contiguous(memory_format=layout)
            expected = explicit(x, kernels, bias, where, activation, residual)
            kept = (x.clone(), kernels.clone())
            before = None if residual is None else residual.clone()
            y = convolve(
                x,
                kernels,
                bias,
                where,
                form,
                activation,
                residual,
                overwrite=overwrite and joined,
            )
            assert_close(y, expected, 1e-5)
            assert torch.equal(x, kept[0])
            assert torch.equal(kernels, kept[1])
            if joined and not overwrite:
                assert torch.equal(residual, before)
            done += 1
    assert done >= 32


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_may_take_the_residuals_memory_only_if_told(batch, layout, calls):
    x, kernels, bias, where = operands("3x3", batch, "slices", LAYOUTS[layout])
    residual = random(batch, 8, 9, 10, seed=3).contiguous(memory_format=LAYOUTS[layout])
    y = convolve(x, kernels, bias, where, "slices", "relu", residual)
    assert y.data_ptr() != residual.data_ptr()
    y = convolve(x, kernels, bias, where, "slices", "relu", residual, overwrite=True)
    same = y.data_ptr() == residual.data_ptr()
    assert same == (calls == "one call" and one_call_works("cpu", torch.float32))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("form", ["slices", "grouped", "matmul", "shared"])
@pytest.mark.parametrize(
    "shape", [(3, 8, 1, 1), (1, 8, 9, 10), (8, 1, 1), (9, 10), (3, 1, 9, 10)], ids=str
)
def test_a_residual_of_another_shape_is_broadcast(shape, form, overwrite, calls):
    x, kernels, bias, where = operands("1x1", 3, form, torch.channels_last)
    residual = random(*shape, seed=3)
    before = residual.clone()
    y = convolve(x, kernels, bias, where, form, "relu", residual, overwrite=overwrite)
    assert_close(y, explicit(x, kernels, bias, where, "relu", residual), 1e-5)
    assert torch.equal(residual, before)


def test_a_residual_may_be_larger_than_the_convolution(calls):
    x, kernels, bias, where = operands("1x1", 3, "slices", torch.contiguous_format)
    x = x[:, :, :1, :1]
    residual = random(3, 8, 9, 10, seed=3)
    for form in ("slices", "grouped", "matmul"):
        y = convolve(x, kernels, bias, where, form, "relu", residual)
        assert_close(y, explicit(x, kernels, bias, where, "relu", residual), 1e-5)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_residual_in_the_other_layout_or_with_gaps_is_added_as_well(overwrite, calls):
    x, kernels, bias, where = operands("3x3", 3, "slices", torch.channels_last)
    whole = random(3, 8, 9, 10, seed=3)
    for residual in (
        whole.clone(),
        whole.to(memory_format=torch.channels_last),
        torch.stack([whole, whole], -1)[..., 0],
        torch.cat([whole, whole], 1)[:, :8],
    ):
        expected = explicit(x, kernels, bias, where, "relu", whole)
        y = convolve(
            x, kernels, bias, where, "slices", "relu", residual, overwrite=overwrite
        )
        assert_close(y, expected, 1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_takes_inputs_with_gaps_in_memory(geometry, calls):
    for form in forms(geometry, GEOMETRIES[geometry][0]):
        x, kernels, bias, where = operands(geometry, 3, form, torch.channels_last)
        expected = explicit(x, kernels, bias, where, "relu", None)
        for view in (
            torch.stack([x, x], -1)[..., 0],
            torch.cat([x, x], 1)[:, :8],
            x.transpose(2, 3).contiguous().transpose(2, 3),
        ):
            assert torch.equal(view, x)
            y = convolve(view, kernels, bias, where, form, "relu")
            assert_close(y, expected, 1e-5)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("form", ["slices", "grouped", "matmul", "shared"])
@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float64, 1e-13), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
)
def test_other_precisions(dtype, tolerance, form, residual, calls):
    x, kernels, bias, where = operands("1x1", 3, form, torch.channels_last, dtype)
    residual = random(3, 8, 9, 10, seed=3, dtype=dtype) if residual else None
    y = convolve(x, kernels, bias, where, form, "relu", residual)
    assert y.dtype == dtype
    expected = explicit(x, kernels, bias, where, "relu", residual)
    assert_close(y, expected, tolerance)


class TestOneCallWorks:
    @pytest.fixture(autouse=True)
    def tried_anew(self):
        convolution._works.cache_clear()
        yield
        convolution._works.cache_clear()

    def test_only_where_torch_computes_such_tensors_in_one_call(self):
        assert not one_call_works("cpu", torch.float64)
        assert not one_call_works("meta", torch.float32)
        assert isinstance(one_call_works("cpu", torch.float32), bool)

    @pytest.mark.filterwarnings("ignore:TF32")
    def test_not_if_the_user_switched_the_library_off(self):
        with torch.backends.mkldnn.flags(enabled=False):
            assert not one_call_works("cpu", torch.float32)

    @pytest.mark.parametrize("error", [AttributeError, RuntimeError])
    def test_not_if_torch_lacks_the_call(self, error, monkeypatch):
        def missing(*args):
            raise error("no such operator")

        monkeypatch.setattr(convolution, "_onednn", missing)
        assert not one_call_works("cpu", torch.float32)

    @pytest.mark.parametrize("factor", [1.001, torch.nan])
    def test_not_if_the_call_is_wrong(self, factor, monkeypatch):
        right = convolution._onednn
        monkeypatch.setattr(convolution, "_onednn", lambda *args: right(*args) * factor)
        assert not one_call_works("cpu", torch.float32)

    def test_not_if_the_call_reads_memory_that_nobody_wrote(self, monkeypatch):
        right, fill, left = convolution._onednn, torch.Tensor.fill_, [0.0]

        def filled(tensor, value):
            left.append(value)
            return fill(tensor, value)

        monkeypatch.setattr(torch.Tensor, "fill_", filled)
        # Fresh memory holds what was last left in some.
        monkeypatch.setattr(
            convolution, "_onednn", lambda *args: right(*args) + 0 * left[-1]
        )
        assert not one_call_works("cpu", torch.float32)

    def test_a_trial_that_ran_out_of_memory_is_no_answer(self, monkeypatch):
        with monkeypatch.context() as now:
            now.setattr(convolution, "_onednn", out_of_memory)
            with pytest.raises(torch.OutOfMemoryError):
                convolution._works("cpu", torch.float32)
        monkeypatch.setattr(convolution, "_onednn", right)
        assert convolution._works("cpu", torch.float32)

    def test_not_cudnns_where_the_same_bits_are_asked_for(self, monkeypatch):
        monkeypatch.setattr(convolution, "_works", lambda *_: True)
        assert one_call_works("cuda", torch.float32)
        with torch.backends.cudnn.flags(deterministic=True):
            assert not one_call_works("cuda", torch.float32)
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        assert not one_call_works("cuda", torch.float32)


def out_of_memory(*args):
    raise torch.OutOfMemoryError("CUDA out of memory")


def right(x, weight, bias, geometry, activation, residual, overwrite):
    y = F.conv2d(x, weight, bias, *geometry)
    return convolution.finish(y, residual, activation)


class TestCudnnOrNot:
    """With a stand-in for cuDNN's call, which needs a GPU."""

    @pytest.fixture(autouse=True)
    def nothing_refused(self, monkeypatch):
        monkeypatch.setattr(convolution, "_REFUSED", set())

    def call(self):
        x, kernels, bias, where = operands("3x3", 1, "slices", torch.channels_last)
        y = convolution._cudnn_or_not(x, kernels[0], bias, where, None)
        assert_close(y, explicit(x, kernels, bias, where, "relu", None), 1e-5)

    def test_what_cudnn_refuses_is_not_asked_again(self, monkeypatch):
        asked = []

        def refuses(*args):
            asked.append(args)
            raise RuntimeError("no engine")

        monkeypatch.setattr(convolution, "_cudnn", refuses)
        self.call()
        self.call()
        assert len(asked) == 1

    def test_being_out_of_memory_is_said_and_no_refusal(self, monkeypatch):
        monkeypatch.setattr(convolution, "_cudnn", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            self.call()
        assert not convolution._REFUSED
