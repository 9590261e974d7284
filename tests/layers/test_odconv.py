"""What ODConv2d alone has: its heads, any subset of them, its BatchNorm."""

import itertools
import re
import warnings

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d
from odconv_det.layers import norm
from tests.layers.cases import image, randomize
from tests.oracle import odconv2d_oracle

ATTENTIONS = ("channel", "filter", "spatial", "kernel")
SUBSETS = [
    subset
    for count in range(1, 5)
    for subset in itertools.combinations(ATTENTIONS, count)
]


def make(**arguments):
    torch.manual_seed(0)
    arguments = {"in_channels": 8, "out_channels": 12, "kernel_size": 3, **arguments}
    return randomize(ODConv2d(**arguments))


def heads(layer):
    """Their attentions, by the names in the state dict."""
    keys = [key.split(".")[1] for key in layer.state_dict() if "_fc.weight" in key]
    return tuple(key.removesuffix("_fc") for key in keys)


class TestBatchOfOne:
    @pytest.fixture(autouse=True)
    def not_said_yet(self):
        norm._say_once.cache_clear()

    def test_trains_with_the_running_statistics(self):
        layer = make(padding=1).train()
        before = layer.attention.bn.running_mean.clone()
        with pytest.warns(UserWarning, match="running statistics"):
            y = layer(image(1))
        y.sum().backward()
        assert all(p.grad is not None for p in layer.parameters())
        assert torch.equal(layer.attention.bn.running_mean, before)
        torch.testing.assert_close(y, layer.eval()(image(1)))

    def test_is_said_once(self):
        layers = [make().train(), make(kernel_size=1).train()]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for layer in layers * 2:
                layer(image(1))
        assert len([w for w in caught if "running statistics" in str(w.message)]) == 1

    def test_of_two_updates_the_statistics(self):
        layer = make(padding=1).train()
        before = layer.attention.bn.running_mean.clone()
        layer(image(2))
        assert not torch.equal(layer.attention.bn.running_mean, before)


class TestHeads:
    @pytest.mark.parametrize(
        "arguments, absent",
        [
            (dict(kernel_size=1), {"spatial"}),
            (dict(kernel_size=3, kernel_num=1), {"kernel"}),
            (dict(kernel_size=3, out_channels=8, groups=8), {"filter"}),
            (dict(kernel_size=1, kernel_num=1), {"spatial", "kernel"}),
        ],
    )
    def test_there_is_none_for_a_constant_attention(self, arguments, absent):
        assert set(heads(make(**arguments))) == set(ATTENTIONS) - absent

    def test_they_see_at_least_sixteen_values(self):
        assert ODConv2d(8, 8, 1).attention.fc.weight.shape[0] == 16
        assert ODConv2d(512, 8, 1).attention.fc.weight.shape[0] == 32
        assert ODConv2d(32, 8, 1, reduction=0.75).attention.fc.weight.shape[0] == 24


class TestSubset:
    @pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
    def test_equals_the_oracle(self, subset):
        kernel_num = 3 if "kernel" in subset else 1
        layer = make(attentions=subset, kernel_num=kernel_num, padding=1, stride=2)
        assert heads(layer) == subset
        layer.double().eval()
        x = image(3, dtype=torch.float64)
        expected = odconv2d_oracle(layer, x)
        torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
    def test_starts_as_a_static_convolution(self, subset):
        kernel_num = 3 if "kernel" in subset else 1
        layer = make(attentions=subset, kernel_num=kernel_num, bias=False).double()
        static = nn.Conv2d(8, 12, 3, bias=False).double()
        layer.inflate_(static.weight, noise=0.1)
        x = image(3, dtype=torch.float64)
        torch.testing.assert_close(layer(x), static(x), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("subset", [s for s in SUBSETS if "kernel" not in s])
    def test_several_kernels_need_an_attention(self, subset):
        with pytest.raises(ValueError, match="kernel_num=3 needs .*'kernel'.*got"):
            make(attentions=subset, kernel_num=3)

    def test_is_all_four_by_default(self):
        assert ODConv2d(8, 8, 3).attentions == ATTENTIONS
        assert "attentions" not in repr(ODConv2d(8, 8, 3))

    def test_has_one_order_however_it_is_written(self):
        one = make(attentions=["kernel", "channel"])
        other = make(attentions=("channel", "kernel"))
        assert one.attentions == other.attentions == ("channel", "kernel")
        assert list(one.state_dict()) == list(other.state_dict())
        assert "attentions=('channel', 'kernel')" in repr(one)

    @pytest.mark.parametrize(
        "attentions", ["channel", ("channels",), ("channel", "depth"), (1,)], ids=str
    )
    def test_names_an_attention_that_it_does_not_have(self, attentions):
        with pytest.raises(ValueError, match=f"got {re.escape(repr(attentions))}"):
            ODConv2d(8, 8, 3, attentions=attentions)

    @pytest.mark.parametrize(
        "arguments",
        [
            dict(attentions=(), kernel_num=1),
            dict(attentions=("spatial",), kernel_size=1, kernel_num=1),
            dict(attentions=("filter",), in_channels=12, groups=12, kernel_num=1),
            dict(attentions=("kernel",), kernel_num=1),
        ],
        ids=str,
    )
    def test_names_settings_with_nothing_dynamic(self, arguments):
        with pytest.raises(ValueError, match="leave this convolution static"):
            make(**arguments)
