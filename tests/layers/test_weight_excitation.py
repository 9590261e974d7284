"""WEConv2d: a static convolution as soon as training is over."""

import pytest
import torch
from torch import nn

from odconv_det.layers import WEConv2d
from tests.layers.cases import GEOMETRIES, image, make

VARIANTS = ["WEConv2d", "WEConv2d magnitude"]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_its_static_form_computes_the_same(variant, geometry):
    layer = make(variant, **GEOMETRIES[geometry]).double()
    static = layer.static()
    assert type(static) is nn.Conv2d
    assert (static.bias is None) == (layer.bias is None)
    x = image(3, dtype=torch.float64)
    torch.testing.assert_close(static(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_its_static_form_is_independent_of_it(training):
    layer = make("WEConv2d", kernel_size=3).train(training)
    static = layer.static()
    expected = static(image())
    assert static.training == training
    assert expected.requires_grad
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert torch.equal(static(image()), expected)


@pytest.mark.parametrize("width, hidden", [(8, 1), (16, 1), (32, 2), (512, 32)])
def test_its_attention_is_a_sixteenth_of_a_filter_wide(width, hidden):
    layer = WEConv2d(width, 4, 1)
    assert layer.attention.fc1.weight.shape == (hidden, width, 1, 1)
    assert layer.attention.fc2.weight.shape == (width, hidden, 1, 1)


def test_its_attention_sees_the_channels_of_a_group():
    assert WEConv2d(32, 4, 1, groups=4).attention.fc1.weight.shape == (1, 8, 1, 1)


def test_its_kernel_does_not_depend_on_the_input():
    layer = make("WEConv2d", kernel_size=3)
    kernels = []
    layer.attention.register_forward_hook(lambda m, args, out: kernels.append(out))
    layer(image())
    layer(image() + 1)
    assert torch.equal(*kernels)


def test_magnitude_stretches_large_weights_more():
    plain, magnitude = (make(variant, kernel_size=3).kernel() for variant in VARIANTS)
    ratio = (magnitude / plain).flatten()
    order = plain.abs().flatten().argsort()
    assert (ratio[order].diff() > -1e-4).all()
    assert ratio.min() >= 1 - 1e-5
    assert ratio.max() > 1.5


def test_magnitude_is_odd_and_does_not_depend_on_the_scale():
    layer = make("WEConv2d magnitude", kernel_size=3).double()
    with torch.no_grad():
        layer.attention.fc2.zero_()  # an excitation that is the same for every weight
        kernel = layer.kernel()
        layer.weight.mul_(-3)
    torch.testing.assert_close(layer.kernel(), -3 * kernel, rtol=1e-12, atol=1e-12)


def test_magnitude_has_no_static_start_and_says_so():
    layer = make("WEConv2d magnitude", kernel_size=3)
    before = layer(image())
    with pytest.raises(ValueError, match="magnitude=True"):
        layer.inflate_(torch.zeros(12, 8, 3, 3))
    assert torch.equal(layer(image()), before)
