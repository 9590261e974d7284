"""Convolution of each sample with a kernel of its own, with what is behind it."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from odconv_det.core.dispatch import force
from odconv_det.functional import (
    Affine,
    Attentions,
    Geometry,
    odconv2d,
    sample_conv2d,
)

GEOMETRIES = {
    "3x3": (3, Geometry((1, 1), (1, 1), (1, 1), 1)),
    "1x1": (1, Geometry((1, 1), (0, 0), (1, 1), 1)),
    "strided 1x1": (1, Geometry((2, 2), (0, 0), (1, 1), 1)),
    "grouped": (3, Geometry((2, 1), (1, 0), (1, 1), 4)),
    "depthwise": (3, Geometry((1, 1), (2, 2), (2, 2), 8)),
}
BATCH, CHANNELS = 3, 8


def operands(k, groups, kernel_num, present, bias):
    """Everything odconv2d takes, random, as leaves that want gradients."""
    generator = torch.Generator().manual_seed(0)

    def random(*size):
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    sizes = (CHANNELS, CHANNELS, k * k, kernel_num)
    present = (*present, kernel_num > 1)
    attentions = Attentions(
        *(random(BATCH, n) if p else None for n, p in zip(sizes, present, strict=True))
    )
    return dict(
        x=random(BATCH, CHANNELS, 7, 6),
        bank=random(kernel_num, CHANNELS, CHANNELS // groups, k, k),
        bias=random(CHANNELS) if bias else None,
        affine=Affine(random(CHANNELS), random(CHANNELS)),
        attentions=attentions,
    )


def explicit(x, bank, attentions, bias, geometry, affine):
    """Sample by sample, each step by itself."""
    channel, filter_, spatial, kernel = attentions
    ys = []
    for b, sample in enumerate(x):
        own = (
            bank[0]
            if kernel is None
            else (kernel[b].view(-1, 1, 1, 1, 1) * bank).sum(0)
        )
        if spatial is not None:
            own = own * spatial[b].view(own.shape[2:])
        if channel is not None:
            sample = sample * channel[b, :, None, None]
        y = F.conv2d(sample[None], own, None, *geometry)[0]
        if filter_ is not None:
            y = y * filter_[b, :, None, None]
        if bias is not None:
            y = y + bias[:, None, None]
        ys.append(y * affine.scale[:, None, None] + affine.shift[:, None, None])
    return torch.stack(ys)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel_num", [1, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_each_step_by_itself_forward_and_backward(geometry, kernel_num, bias):
    k, geometry = GEOMETRIES[geometry]
    for present in itertools.product((False, True), repeat=3):
        inputs = operands(k, geometry.groups, kernel_num, present, bias)
        leaves = [*inputs.pop("affine"), *inputs.pop("attentions"), *inputs.values()]
        inputs["affine"], inputs["attentions"] = Affine(*leaves[:2]), leaves[2:6]
        leaves = [leaf for leaf in leaves if leaf is not None]
        y_expected = explicit(geometry=geometry, **inputs)
        grad_y = torch.randn_like(y_expected)
        expected = torch.autograd.grad(y_expected, leaves, grad_y)
        y = odconv2d(geometry=geometry, **inputs)
        torch.testing.assert_close(y, y_expected, rtol=1e-11, atol=1e-11)
        found = torch.autograd.grad(y, leaves, grad_y)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", ["kernel", "maps"])
@pytest.mark.parametrize("convolve", ["slices", "grouped", "matmul", "shared"])
@pytest.mark.parametrize("kernel_num", [1, 3])
def test_every_plan_applies_the_affine_map(kernel_num, convolve, scale):
    k, geometry = GEOMETRIES["1x1"]
    for present in ((True, True, False), (True, False, False), (False, True, False)):
        inputs = operands(k, 1, kernel_num, present, True)
        with force(scale, convolve), torch.no_grad():
            torch.testing.assert_close(
                odconv2d(geometry=geometry, **inputs),
                explicit(geometry=geometry, **inputs),
                rtol=1e-11,
                atol=1e-11,
            )


def test_an_affine_map_without_a_bias_is_its_shift():
    scale, shift, bias = torch.randn(3, 5)
    assert Affine(scale, shift).of_bias(None) is shift
    torch.testing.assert_close(Affine(scale, shift).of_bias(bias), scale * bias + shift)


class TestSampleConv2d:
    """With kernels that come from anywhere."""

    def operands(self, geometry, bias=True, affine=True, batch=BATCH):
        k, geometry = GEOMETRIES[geometry]
        generator = torch.Generator().manual_seed(0)

        def random(*size):
            values = torch.randn(size, generator=generator, dtype=torch.float64)
            return values.requires_grad_()

        kernels = random(batch, CHANNELS, CHANNELS // geometry.groups, k, k)
        return dict(
            x=random(batch, CHANNELS, 7, 6),
            kernels=kernels,
            bias=random(CHANNELS) if bias else None,
            geometry=geometry,
            affine=Affine(random(CHANNELS), random(CHANNELS)) if affine else None,
        )

    def explicit(self, x, kernels, bias, geometry, affine):
        ys = []
        for sample, kernel in zip(x, kernels, strict=True):
            y = F.conv2d(sample[None], kernel, bias, *geometry)[0]
            if affine is not None:
                y = y * affine.scale[:, None, None] + affine.shift[:, None, None]
            ys.append(y)
        return torch.stack(ys)

    @pytest.mark.parametrize("affine", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("geometry", GEOMETRIES)
    def test_equals_each_sample_by_itself_forward_and_backward(
        self, geometry, bias, affine
    ):
        inputs = self.operands(geometry, bias, affine)
        leaves = [inputs["x"], inputs["kernels"], inputs["bias"]]
        leaves = [
            leaf for leaf in (*leaves, *(inputs["affine"] or ())) if leaf is not None
        ]
        y_expected = self.explicit(**inputs)
        grad_y = torch.randn_like(y_expected)
        expected = torch.autograd.grad(y_expected, leaves, grad_y)
        y = sample_conv2d(**inputs)
        torch.testing.assert_close(y, y_expected, rtol=1e-11, atol=1e-11)
        found = torch.autograd.grad(y, leaves, grad_y)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize(
        "geometry, convolve",
        [
            *itertools.product(GEOMETRIES, ["slices", "grouped"]),
            ("1x1", "matmul"),
            ("strided 1x1", "matmul"),
        ],
    )
    def test_every_form_is_the_same_function(self, geometry, convolve, layout):
        inputs = self.operands(geometry)
        expected = self.explicit(**inputs)
        inputs["x"] = inputs["x"].to(memory_format=layout)
        with force(convolve=convolve):
            y = sample_conv2d(**inputs)
        torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("geometry", GEOMETRIES)
    def test_an_empty_batch_has_gradients_of_zero(self, geometry):
        inputs = self.operands(geometry, batch=0)
        expected = self.operands(geometry)
        y = sample_conv2d(**inputs)
        assert y.shape == (0, *sample_conv2d(**expected).shape[1:])
        y.sum().backward()
        for leaf in (inputs["x"], inputs["kernels"], inputs["bias"]):
            assert leaf.grad.shape == leaf.shape
            assert not leaf.grad.any()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_under_autocast_the_kernels_are_cast_once(self, dtype):
        inputs = self.operands("3x3")
        x, kernels, bias = (inputs[name].float() for name in ("x", "kernels", "bias"))
        geometry, affine = (
            inputs["geometry"],
            Affine(*map(torch.Tensor.float, inputs["affine"])),
        )
        with torch.autocast("cpu", dtype=dtype):
            y = sample_conv2d(x, kernels, bias, geometry, affine)
        assert y.dtype == dtype
        rounded = (kernels * affine.scale.view(-1, 1, 1, 1)).to(dtype).float()
        shift = affine.of_bias(bias)
        expected = self.explicit(x.to(dtype).float(), rounded, shift, geometry, None)
        eps = torch.finfo(dtype).eps
        assert (y.float() - expected).abs().max() <= 2 * eps * expected.abs().max()

    def test_kernels_in_another_precision_become_the_input_s(self):
        inputs = self.operands("3x3")
        x = inputs.pop("x").float()
        assert sample_conv2d(x, **inputs).dtype == torch.float32
