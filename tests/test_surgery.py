"""Swapping convolutions of any network."""

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d, attend, swap
from odconv_det.layers import (
    CBAM,
    DYNAMIC_CONVOLUTIONS,
    ECA,
    FEATURE_ATTENTIONS,
    SE,
    AttendedNorm,
    CondConv2d,
    DyConv2d,
    WeightNetConv2d,
)
from tests.calibrated import calibrate, pictures
from tests.lookalike import LookalikeResNet


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


@pytest.mark.parametrize("where", ["0", ["0"], nn.Conv2d, None, 3])
def test_where_must_be_a_function_or_conditions(where):
    with pytest.raises(ValueError, match="where must be a function .* or a dict"):
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


class TestConditions:
    """``where`` as a dict, on a network of another library."""

    def test_choose_the_convolutions(self):
        net = LookalikeResNet()
        names = swap(net, dict(stages=(3,), kernel_sizes=(3,)), ODConv2d, kernel_num=2)
        assert names == [f"layer3.{i}.conv{j}" for i in (0, 1) for j in (1, 2)]
        found = [n for n, m in net.named_modules() if isinstance(m, ODConv2d)]
        assert found == names
        assert {net.get_submodule(name).kernel_num for name in names} == {2}
        assert net(pictures(2, 64)).shape == (2, 5)

    def test_none_at_all_mean_all_but_stem_and_shortcuts(self):
        net = LookalikeResNet()
        assert len(swap(net, {}, ODConv2d)) == 12
        static = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
        assert static == ["conv1", "layer2.0.downsample.0", "layer3.0.downsample.0"]

    def test_that_cannot_be_met_change_nothing(self):
        net = LookalikeResNet()
        before = list(net.modules())
        for where in (dict(stages=(7,)), dict(kernel_sizes=(5,)), dict(last_blocks=9)):
            with pytest.raises(ValueError, match="stages|kernel_sizes|last_blocks"):
                swap(net, where, ODConv2d)
        assert list(net.modules()) == before

    @pytest.mark.parametrize("layer", DYNAMIC_CONVOLUTIONS)
    def test_take_every_layer(self, layer):
        net = LookalikeResNet()
        swap(net, dict(stages=(2, 3), shortcuts=True), layer)
        net.train()(pictures(2, 64)).square().sum().backward()
        unused = [n for n, p in net.named_parameters() if p.grad is None]
        assert unused == []


class TestSharingInABlock:
    """CondConv has one routing per block, from the block's input."""

    def routed(self, **where):
        net = LookalikeResNet()
        swap(net, where, CondConv2d, kernel_num=3)
        return net

    def routings(self, net):
        return [
            name.removesuffix(".attention.fc.weight")
            for name in net.state_dict()
            if name.endswith(".attention.fc.weight")
        ]

    def test_the_first_convolution_has_the_blocks_routing(self):
        net = self.routed()
        blocks = [f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1)]
        assert self.routings(net) == [f"{block}.conv1" for block in blocks]

    def test_the_projection_of_a_shortcut_keeps_its_own(self):
        net = self.routed(stages=(2,), shortcuts=True)
        own = ["layer2.0.conv1", "layer2.0.downsample.0", "layer2.1.conv1"]
        assert self.routings(net) == own

    def test_without_the_first_convolution_the_next_has_it(self):
        net = self.routed(names=r".*\.conv2")
        assert len(self.routings(net)) == 6
        assert all(name.endswith(".conv2") for name in self.routings(net))

    def test_the_stem_and_other_convolutions_share_nothing(self):
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
        swap(net, {}, CondConv2d)
        assert self.routings(net) == ["0", "1"]

    def test_every_expert_of_a_block_is_mixed_by_the_blocks_input(self):
        """The block, computed by hand with one routing."""
        torch.manual_seed(0)
        net = calibrate(self.routed(stages=(2,)))
        block = net.layer2[0]
        nn.init.normal_(block.conv1.attention.fc.weight)
        x = torch.randn(3, 16, 12, 12) + torch.randn(3, 16, 1, 1)
        routing = block.conv1.attention.fc(x.mean((2, 3))).sigmoid()
        assert routing.std(0).min() > 0.01
        expected = []
        for sample, r in zip(x, routing, strict=True):
            y = sample[None]
            for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
                kernel = torch.einsum("n,noihw->oihw", r, conv.weight)
                y = norm(nn.functional.conv2d(y, kernel, None, conv.stride, 1))
                y = y.relu() if norm is block.bn1 else y
            expected.append((y + block.downsample(sample[None])).relu())
        torch.testing.assert_close(block(x), torch.cat(expected), rtol=1e-4, atol=1e-4)

    def test_weightnet_has_the_hidden_width_of_the_blocks_input(self):
        with torch.device("meta"):
            net = LookalikeResNet(width=512)
            swap(net, dict(stages=(2,), shortcuts=True), WeightNetConv2d)
        block = net.layer2[0]  # from 512 to 1024 channels
        convs = (block.conv1, block.conv2, block.downsample[0])
        assert [c.attention.reduce.weight.shape[0] for c in convs] == [32, 32, 32]
        block = net.layer2[1]
        assert block.conv2.attention.reduce.weight.shape[0] == 64

    def test_other_layers_share_nothing(self):
        net = LookalikeResNet()
        swap(net, {}, DyConv2d)
        assert len([n for n in net.state_dict() if n.endswith("fc1.weight")]) == 12


class TestAttend:
    @pytest.mark.parametrize("attention", FEATURE_ATTENTIONS)
    def test_scales_what_is_added_to_the_shortcut(self, attention):
        torch.manual_seed(0)
        net = calibrate(LookalikeResNet())
        x = torch.randn(2, 16, 12, 12)
        names = attend(net, attention)
        assert names == [f"layer{i}.{j}.bn2" for i in (1, 2, 3) for j in (0, 1)]
        block = net.layer1[1]
        assert isinstance(block.bn2, AttendedNorm)
        inner = block.bn2.norm(block.conv2(block.bn1(block.conv1(x)).relu()))
        expected = (block.bn2.attention(inner) + x).relu()
        torch.testing.assert_close(block(x), expected)
        assert not torch.allclose(block.bn2.attention(inner), inner)

    def test_names_of_the_state_dict(self):
        net = LookalikeResNet()
        before = set(net.state_dict())
        attend(net, ECA)
        new = set(net.state_dict()) - before
        assert {n for n in new if n.startswith("layer1.0.")} == {
            "layer1.0.bn2.attention.weight",
            "layer1.0.bn2.norm.weight",
            "layer1.0.bn2.norm.bias",
            "layer1.0.bn2.norm.running_mean",
            "layer1.0.bn2.norm.running_var",
            "layer1.0.bn2.norm.num_batches_tracked",
        }

    def test_keeps_norm_dtype_and_mode(self):
        net = LookalikeResNet().double().eval()
        norm = net.layer2[0].bn2
        attend(net, SE, reduction=8)
        attended = net.layer2[0].bn2
        assert attended.norm is norm
        assert attended.attention.fc1.weight.shape == (4, 32, 1, 1)
        assert attended.attention.fc1.weight.dtype == torch.float64
        assert not any(m.training for m in net.modules())
        net(pictures(1, 64).double())

    @pytest.mark.parametrize("order", ["swap first", "attend first"])
    def test_goes_with_dynamic_layers(self, order):
        net = LookalikeResNet()
        if order == "swap first":
            swap(net, {}, ODConv2d)
            attend(net, CBAM)
        else:
            attend(net, CBAM)
            assert len(swap(net, {}, ODConv2d)) == 12
        net(pictures(2, 64)).square().sum().backward()
        assert [n for n, p in net.named_parameters() if p.grad is None] == []

    def test_says_that_there_are_no_blocks(self):
        net = network()
        with pytest.raises(ValueError, match=r"layer1\.0"):
            attend(net, SE)


class _Wrapped(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.backbone = network


def test_blocks_of_a_wrapped_network_share_as_well():
    net = _Wrapped(LookalikeResNet())
    swap(net, lambda name, conv: "layer2" in name and "down" not in name, CondConv2d)
    routings = [n for n, _ in net.named_parameters() if n.endswith("attention.fc.bias")]
    assert len(routings) == len(net.backbone.layer2)
    assert all(n.startswith("backbone.layer2") for n in routings)


def test_an_unknown_word_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="where knows stages, .*got 'stage'"):
        swap(LookalikeResNet(), dict(stage=1), ODConv2d)


def test_an_error_of_a_layer_names_the_convolution():
    with pytest.raises(ValueError, match=r"^layer1\.0\.conv1: kernel_num"):
        swap(LookalikeResNet(), dict(stages=(1,)), ODConv2d, kernel_num=0)


def test_attention_behind_a_norm_without_weight_is_refused_before_a_change():
    net = LookalikeResNet()
    net.layer2[0].bn2 = nn.BatchNorm2d(32, affine=False)
    with pytest.raises(ValueError, match=r"layer2\.0\.bn2 has none"):
        attend(net, SE)
    assert not any(isinstance(m, AttendedNorm) for m in net.modules())
