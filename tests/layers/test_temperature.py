"""The temperature of ODConv2d and DyConv2d, for a whole network."""

import copy

import pytest
import torch
from torch import nn

from odconv_det import fuse, set_temperature
from odconv_det.layers import SE, CondConv2d, DyConv2d, ODConv2d
from tests.layers.cases import image, make
from tests.oracle import oracle

TEMPERED = {"ODConv2d": ODConv2d, "DyConv2d": DyConv2d}
each_layer = pytest.mark.parametrize("name", TEMPERED)


@each_layer
def test_is_one_by_default_shown_and_not_in_the_state_dict(name):
    layer = TEMPERED[name](8, 8, 3)
    assert layer.attention.temperature == 1.0
    assert "temperature=1" in repr(layer)
    assert not [key for key in layer.state_dict() if "temperature" in key]
    assert TEMPERED[name](8, 8, 3, temperature=30).attention.temperature == 30


@each_layer
def test_changes_the_function_and_back(name):
    network = nn.Sequential(make(name, kernel_size=3, padding=1), nn.ReLU()).eval()
    before = network(image())
    assert set_temperature(network, 30) == 1
    assert not torch.allclose(network(image()), before)
    set_temperature(network, 1.0)
    assert torch.equal(network(image()), before)


def test_reaches_every_layer_that_has_one():
    network = nn.Sequential(
        *(make(name, out_channels=8, kernel_size=1) for name in TEMPERED),
        CondConv2d(8, 8, 1),
        nn.Sequential(DyConv2d(8, 8, 1), SE(8), nn.Conv2d(8, 8, 1)),
    )
    assert set_temperature(network, 7) == 3
    for layer in (network[0], network[1], network[3][0]):
        assert layer.attention.temperature == 7
    assert set_temperature(nn.Conv2d(8, 8, 1), 7) == 0


def test_a_fused_network_refuses_another_one():
    """Of ODConv2d it is in the weights; the attention of DyConv2d stays as it is."""
    for name in TEMPERED:
        network = nn.Sequential(make(name, kernel_size=3, padding=1), nn.ReLU()).eval()
        twin = fuse(copy.deepcopy(network))
        set_temperature(network, 30)
        if name == "ODConv2d":
            with pytest.raises(RuntimeError, match=r"is fused.*before fuse\(\)"):
                set_temperature(twin, 30)
        else:
            assert set_temperature(twin, 30) == 1
            torch.testing.assert_close(twin(image()), network(image()))


@pytest.mark.parametrize("temperature", [0.5, 30.0])
@each_layer
def test_equals_the_oracle(name, temperature):
    layer = make(name, kernel_size=3, padding=1, temperature=temperature)
    layer.double().eval()
    x = image(dtype=torch.float64)
    torch.testing.assert_close(layer(x), oracle(layer, x), rtol=1e-11, atol=1e-11)


@each_layer
def test_a_high_one_makes_the_kernels_weights_equal(name):
    layer = make(name, kernel_size=3)
    set_temperature(layer, 1e6)
    weights = layer.attention(image()).kernel
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 4))


@pytest.mark.parametrize("temperature", [1.0, 30.0])
@each_layer
def test_does_not_matter_to_an_inflated_layer(name, temperature):
    layer = make(name, kernel_size=3, bias=False).double()
    static = nn.Conv2d(8, 12, 3, bias=False).double()
    layer.inflate_(static.weight, noise=0.1)
    set_temperature(layer, temperature)
    x = image(dtype=torch.float64)
    torch.testing.assert_close(layer(x), static(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "warm"])
@each_layer
def test_must_be_positive(name, value):
    layer = TEMPERED[name](8, 8, 3)
    with pytest.raises(ValueError, match=f"temperature .*{value}"):
        set_temperature(layer, value)
    assert layer.attention.temperature == 1.0
    with pytest.raises(ValueError, match=f"temperature .*{value}"):
        TEMPERED[name](8, 8, 3, temperature=value)
