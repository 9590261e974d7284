"""odconv2d with the affine map of a BatchNorm behind it."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from odconv_det.core.dispatch import force
from odconv_det.functional import Affine, Attentions, Geometry, odconv2d

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
