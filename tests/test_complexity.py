"""count() counts what a network needs, and leaves the network as it is."""

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d, fuse
from odconv_det.complexity import Complexity, Counts, count, trace
from odconv_det.layers import DYNAMIC_CONVOLUTIONS, FEATURE_ATTENTIONS

MAPS = (2, 16, 9, 7)


class Chain(nn.Module):
    """A stem, two stages of which the second runs twice, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)),
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()),
        )
        self.classifier = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stages(self.stem(x))
        return self.classifier(self.stages[1](x).mean((2, 3)))


class Doubled(nn.Module):
    """Counts itself: the convolution in it is not to be asked."""

    def __init__(self):
        super().__init__()
        self.out_channels = 4
        self.conv = nn.Conv2d(3, 4, 3)

    def multiply_adds(self, in_size, out_size):
        return 1000 * in_size[0] + out_size[1]

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize(
    "layer, shape, multiply_adds, activations",
    [
        (nn.Conv2d(16, 6, 3), MAPS, 2 * 7 * 5 * 6 * 16 * 9, 2 * 7 * 5 * 6),
        (nn.Conv2d(16, 16, 3, groups=4), MAPS, 2 * 7 * 5 * 16 * 4 * 9, 2 * 7 * 5 * 16),
        (nn.Conv2d(16, 6, (1, 5), 2), MAPS, 2 * 5 * 2 * 6 * 16 * 5, 2 * 5 * 2 * 6),
        (nn.Conv1d(4, 6, 3), (2, 4, 10), 2 * 8 * 6 * 4 * 3, 2 * 8 * 6),
        # Every pixel of the input times its kernel.
        (
            nn.ConvTranspose2d(16, 6, 2, 2),
            MAPS,
            2 * 9 * 7 * 16 * 6 * 4,
            2 * 6 * 18 * 14,
        ),
        (nn.Linear(5, 3), (2, 7, 5), 2 * 7 * 5 * 3, 2 * 7 * 3),
    ],
)
def test_layers_cost_their_multiplications(layer, shape, multiply_adds, activations):
    total = count(layer, shape).total
    assert total.multiply_adds == multiply_adds
    assert total.activations == activations
    assert total.parameters == sum(p.numel() for p in layer.parameters())


def test_counts_part_by_part():
    counted = count(Chain(), (1, 3, 16, 16))
    children = counted.children()
    assert list(children) == ["stem", "stages", "classifier"]
    assert children["stem"] == Counts(224, 224, 64 * 8 * 27, 64 * 8)
    stages = counted.children("stages")
    assert stages["stages.0"] == Counts(80, 80, 64 * 64, 64 * 8)
    # Run twice, its parameters are there once.
    assert stages["stages.1"] == Counts(80, 80, 2 * 64 * 8 * 9, 2 * 64 * 8)
    assert sum(children.values(), Counts()) == counted.total
    assert sum(stages.values(), Counts()) == counted.part("stages")
    assert counted.part("stage") == Counts()
    assert counted.missing == ()


def test_the_batch_counts():
    one = count(Chain(), (1, 3, 16, 16)).total
    five = count(Chain(), torch.zeros(5, 3, 16, 16)).total
    assert five.multiply_adds == 5 * one.multiply_adds
    assert five.activations == 5 * one.activations
    assert five.parameters == one.parameters


def test_takes_lists_of_maps():
    class Neck(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 2, 1)

        def forward(self, maps, scale):
            return [self.conv(x) * scale for x in maps]

    counted = count(Neck(), [(1, 4, 8, 8), (1, 4, 4, 4)], torch.ones(()))
    assert counted.total.multiply_adds == 8 * (64 + 16)


def test_calls_as_it_is_told():
    def twice(network, x):
        network(x)
        network(x)

    once = count(Chain(), (1, 3, 8, 8)).total.multiply_adds
    counted = count(Chain(), (1, 3, 8, 8), call=twice).total
    assert counted.multiply_adds == 2 * once


def test_frozen_parameters_count_but_are_not_trainable():
    network = Chain()
    network.stem.requires_grad_(False)
    total = count(network, (1, 3, 8, 8)).total
    assert total.parameters - total.trainable == 224


def test_a_parameter_in_two_places_counts_once():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    counted = count(network, (1, 4))
    assert counted.total.parameters == 16 + 4 + 4
    assert counted.part("1").parameters == 4
    assert counted.total.multiply_adds == 32


def test_what_counts_itself_is_not_entered():
    counted = count(nn.Sequential(Doubled()), (3, 3, 8, 8))
    assert counted.total.multiply_adds == 3 * 8006
    assert counted.total.activations == 3 * 4 * 36
    assert counted.total.parameters == 4 * 27 + 4
    assert counted.missing == ()


def test_names_what_it_does_not_count():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Linear(4, 4)
            self.unused = nn.Conv2d(4, 4, 1)
            self.attention = nn.MultiheadAttention(4, 1)
            self.table = nn.Embedding(3, 4)

        def forward(self, x):
            return self.attention(*[self.used(x)] * 3)

    counted = count(Partly(), (2, 1, 4))
    assert counted.missing == ("unused", "attention", "attention.out_proj")
    assert counted.total.multiply_adds == 2 * 16


def test_says_that_a_fused_network_is_not_counted():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert count(fuse(network), (1, 3, 8, 8)).missing == ("0",)


def test_leaves_the_network_as_it_is():
    network = Chain().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count(network, (2, 3, 8, 8))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_copies_no_values():
    for call in trace(Chain(), (1, 3, 8, 8)):
        assert all(p.is_meta for p in call.module.parameters())


def test_traces_in_the_order_of_the_calls():
    calls = trace(Chain(), (2, 3, 16, 16))
    names = ["stem", "stages.0.0", "stages.1.0", "stages.1.0", "classifier"]
    assert [call.name for call in calls] == names
    assert calls[0].input == (2, 3, 16, 16)
    assert calls[0].output == (2, 8, 8, 8)


def test_counts_in_the_precision_of_the_network():
    total = count(Chain().double(), (1, 3, 16, 16)).total
    assert total == count(Chain(), (1, 3, 16, 16)).total


def test_the_total_of_nothing_is_zero():
    assert Complexity({}).total == Counts()


def test_odconv_costs_convolution_attention_and_mixing():
    layer = ODConv2d(32, 64, 3, stride=2, padding=1, bias=False, kernel_num=4)
    kernel = 32 * 64 * 9
    attention = 32 * 16 + 16 * (32 + 64 + 9 + 4)
    total = count(layer, (2, 32, 10, 10)).total
    # Four kernels are summed, and the sum is scaled by the spatial attention.
    assert total.multiply_adds == 2 * (kernel * 25 + attention + 5 * kernel)
    assert total.activations == 2 * 64 * 25


@pytest.mark.parametrize("layer", DYNAMIC_CONVOLUTIONS, ids=lambda cls: cls.__name__)
def test_dynamic_convolutions_count_themselves(layer):
    conv = layer(16, 32, 3, padding=1, stride=2)
    counted = count(nn.Sequential(conv), (3, 16, 9, 7))
    assert counted.missing == ()
    assert counted.total.multiply_adds == 3 * conv.multiply_adds((9, 7), (5, 4))
    assert counted.total.multiply_adds >= 3 * 20 * 16 * 32 * 9
    assert counted.total.activations == 3 * 32 * 20
    assert counted.total.parameters == sum(p.numel() for p in conv.parameters())


@pytest.mark.parametrize("attention", FEATURE_ATTENTIONS, ids=lambda cls: cls.__name__)
def test_feature_attention_makes_no_activations(attention):
    module = attention(32)
    total = count(nn.Sequential(module), (2, 32, 9, 7)).total
    assert total.multiply_adds == 2 * module.multiply_adds((9, 7), (9, 7)) > 0
    assert total.activations == 0
