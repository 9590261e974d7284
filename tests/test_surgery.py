"""Swapping convolutions of any network."""

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d, swap


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.ReLU()),
        nn.Conv2d(8, 4, 1),
    )


def test_replaces_the_chosen_ones_and_returns_their_names():
    net = network()
    kept = net[0]
    names = swap(net, lambda name, conv: name != "0", ODConv2d, kernel_num=2)
    assert names == ["1.0", "2"]
    assert net[0] is kept
    assert isinstance(net[1][0], ODConv2d)
    assert net[2].kernel_num == 2


def test_keeps_geometry_dtype_and_mode():
    net = network().double().eval()
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    expected = net(x)
    swap(net, lambda name, conv: True, ODConv2d)
    layer = net[1][0]
    assert (layer.stride, layer.padding, layer.groups) == ((2, 2), (1, 1), 8)
    assert layer.bias is None
    assert net[2].bias is not None
    assert layer.weight.dtype == torch.float64
    assert not any(m.training for m in net.modules())
    assert net(x).shape == expected.shape


def test_leaves_subclasses_of_convolution_alone():
    class Deformable(nn.Conv2d):
        pass

    net = nn.Sequential(Deformable(3, 8, 3), nn.Conv2d(8, 8, 3))
    assert swap(net, lambda name, conv: True, ODConv2d) == ["1"]


def test_swapping_twice_leaves_the_attention_alone():
    net = network()
    swap(net, lambda name, conv: conv.kernel_size == (3, 3), ODConv2d, kernel_num=4)
    assert swap(net, lambda name, conv: True, ODConv2d, kernel_num=1) == ["2"]
    assert [net[0].kernel_num, net[1][0].kernel_num, net[2].kernel_num] == [4, 4, 1]


def test_a_shared_convolution_becomes_a_shared_layer():
    conv = nn.Conv2d(8, 8, 1)
    net = nn.Sequential(conv, nn.ReLU(), conv)
    assert swap(net, lambda name, conv: True, ODConv2d) == ["0", "2"]
    assert isinstance(net[0], ODConv2d)
    assert net[0] is net[2]


def test_a_network_that_is_a_convolution_is_refused():
    with pytest.raises(ValueError, match="cannot replace itself"):
        swap(nn.Conv2d(8, 8, 1), lambda name, conv: True, ODConv2d)


@pytest.mark.parametrize("where", ["0", ["0"], nn.Conv2d])
def test_where_must_be_a_function(where):
    with pytest.raises(ValueError, match="where must be a function"):
        swap(network(), where, ODConv2d)


def test_a_refused_swap_changes_nothing():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding="same"))
    with pytest.raises(ValueError, match="same"):
        swap(net, lambda name, conv: True, ODConv2d)
    assert [type(m) for m in net] == [nn.Conv2d, nn.Conv2d]


def test_says_when_nothing_was_chosen():
    with pytest.raises(ValueError, match="no convolution"):
        swap(network(), lambda name, conv: False, ODConv2d)


@pytest.mark.parametrize(
    "options", [dict(padding="same"), dict(padding=1, padding_mode="reflect")]
)
def test_names_a_padding_it_cannot_swap(options):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, **options))
    with pytest.raises(ValueError, match="same|reflect"):
        swap(net, lambda name, conv: True, ODConv2d)
