"""WeightNetConv2d: hidden width, and which channels share an activation."""

import pytest
import torch

from odconv_det.layers import WeightNetConv2d
from tests.layers.blocks import network
from tests.layers.cases import image, randomize
from tests.oracle import oracle


def hidden(layer):
    return layer.attention.reduce.weight.shape[0]


@pytest.mark.parametrize("channels, expected", [(8, 16), (256, 16), (512, 32)])
def test_the_hidden_width_follows_from_the_input(channels, expected):
    assert hidden(WeightNetConv2d(channels, 8, 1)) == expected
    assert hidden(WeightNetConv2d(channels, 8, 1, hidden_channels=5)) == 5


@pytest.mark.parametrize("ins, expected", [(1024, 64), (64, 16)])
def test_the_hidden_width_in_a_block_follows_from_the_block_s_input(ins, expected):
    layers = [WeightNetConv2d(*sizes, 1) for sizes in ((ins, 32), (32, 512), (512, 64))]
    WeightNetConv2d.share_in_block(layers)
    assert [hidden(layer) for layer in layers] == [expected] * 3
    assert [layer.attention.fc.weight.shape[1] for layer in layers] == [expected] * 3


def test_joining_a_block_keeps_precision_and_mode():
    layers = [WeightNetConv2d(8, 8, 1).double().eval() for _ in range(2)]
    WeightNetConv2d.share_in_block(layers)
    for layer in layers:
        assert {p.dtype for p in layer.parameters()} == {torch.float64}
        assert not [module for module in layer.modules() if module.training]
        assert layer(image(dtype=torch.float64)).dtype == torch.float64


def test_a_block_shares_no_parameter():
    convs = [m for m in network("WeightNetConv2d").modules() if hasattr(m, "attention")]
    parameters = [id(p) for conv in convs for p in conv.attention.parameters()]
    assert len(convs) == 10
    assert len(set(parameters)) == len(parameters) == 40


def test_each_half_of_a_filter_has_an_activation():
    layer = WeightNetConv2d(8, 2, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    kernels = layer.kernels(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    expected = torch.tensor([[1.0, 1, 1, 1, 2, 2, 2, 2], [3, 3, 3, 3, 4, 4, 4, 4]])
    assert torch.equal(kernels[0, :, :, 0, 0], expected)


@pytest.mark.parametrize("ins, groups, parts", [(8, 1, 2), (8, 8, 1), (6, 2, 1)])
def test_a_filter_of_odd_width_is_scaled_as_a_whole(ins, groups, parts):
    layer = randomize(WeightNetConv2d(ins, 8, 3, groups=groups)).double()
    assert layer.attention.fc.weight.shape[0] == parts * 8
    x = image(dtype=torch.float64)[:, :ins]
    torch.testing.assert_close(layer(x), oracle(layer, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("value", [0, -1, 2.5, "wide"])
def test_names_a_hidden_width_it_does_not_support(value):
    with pytest.raises(ValueError, match=f"hidden_channels.*{value}"):
        WeightNetConv2d(8, 8, 1, hidden_channels=value)


def test_a_width_that_was_given_stays_in_a_block():
    layers = [
        WeightNetConv2d(64, 64, 1, hidden_channels=40),
        WeightNetConv2d(64, 64, 1),
    ]
    WeightNetConv2d.share_in_block(layers)
    widths = [layer.attention.reduce.weight.shape[0] for layer in layers]
    assert widths == [40, 16]
