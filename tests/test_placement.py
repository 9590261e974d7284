"""Every word of ``where``, on MMDetection's ResNet and MobileNetV2 and on others."""

import re
import types

import pytest
import torch
from mmdet.models.backbones import MobileNetV2, ResNet
from torch import nn

from odconv_det import ODConv2d, attend, swap
from odconv_det.layers import SE, DCDConv2d
from odconv_det.placement import Block, blocks_of, choose, last_norms

STEM = ["conv1"]
DEEP_STEM = ["stem.0", "stem.3", "stem.6"]
RESNET_18 = [
    f"layer{stage}.{block}.conv{conv}"
    for stage in (1, 2, 3, 4)
    for block in (0, 1)
    for conv in (1, 2)
]
SHORTCUTS_18 = [f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)]
RESNET_50 = [
    f"layer{stage}.{block}.conv{conv}"
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3))
    for block in range(blocks)
    for conv in (1, 2, 3)
]
MOBILENET = [
    f"layer{stage}.{block}.{conv}.conv"
    for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1), start=1)
    for block in range(blocks)
    for conv in ("expand_conv", "depthwise_conv", "linear_conv")
    if (stage, conv) != (1, "expand_conv")
]
LAST = ["conv2.conv"]


def resnet(depth=18, **options):
    with torch.device("meta"):
        return ResNet(depth, **options)


def mobilenet():
    with torch.device("meta"):
        return MobileNetV2()


def without_blocks():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 5)), nn.Conv2d(8, 8, (1, 3))
    )


def started(names, *prefixes):
    return [name for name in names if name.startswith(prefixes)]


class TestDefault:
    """All convolutions but the stem and the projections of shortcuts."""

    @pytest.mark.parametrize("depth, names", [(18, RESNET_18), (50, RESNET_50)])
    @pytest.mark.parametrize("deep_stem", [False, True])
    def test_of_a_resnet(self, depth, names, deep_stem):
        assert choose(resnet(depth, deep_stem=deep_stem)) == names

    def test_of_a_mobilenet_has_what_follows_the_last_stage(self):
        assert choose(mobilenet()) == MOBILENET + LAST

    def test_of_a_network_without_blocks_has_all(self):
        assert choose(without_blocks()) == ["0", "1.0", "2"]


class TestStages:
    @pytest.mark.parametrize("stages", [(1,), (2, 4), [3], {1, 2}, range(1, 5)])
    def test_are_the_layers(self, stages):
        prefixes = [f"layer{stage}." for stage in stages]
        assert choose(resnet(), stages=stages) == started(RESNET_18, *prefixes)

    def test_zero_is_the_stem(self):
        assert choose(resnet(), stages=(0,)) == STEM
        assert choose(resnet(deep_stem=True), stages=(0,)) == DEEP_STEM
        assert choose(mobilenet(), stages=(0,)) == ["conv1.conv"]

    def test_come_in_the_order_of_the_network(self):
        chosen = choose(resnet(), stages=(2, 0))
        assert chosen == STEM + started(RESNET_18, "layer2.")

    def test_what_follows_the_last_layer_is_one_more(self):
        assert choose(mobilenet(), stages=(8,)) == LAST
        assert choose(mobilenet(), stages=(7, 8)) == started(MOBILENET, "layer7") + LAST

    def test_a_shorter_network_has_fewer(self):
        network = resnet(
            num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)
        )
        assert choose(network) == started(RESNET_18, "layer1.", "layer2.")
        with pytest.raises(ValueError, match=r"some of \[0, 1, 2\], got \(3,\)"):
            choose(network, stages=(3,))

    def test_are_the_same_after_a_swap(self):
        """Each kind of layer gets its own stages, one call after the other."""
        network = MobileNetV2(0.25)
        first = swap(network, dict(stages=range(1, 8)), ODConv2d)
        assert first == MOBILENET
        assert choose(network, stages=(0,)) == ["conv1.conv"]
        assert choose(network, stages=(8,)) == LAST


class TestKernelSizes:
    def test_of_a_bottleneck(self):
        network = resnet(50)
        threes = [name for name in RESNET_50 if name.endswith("conv2")]
        assert choose(network, kernel_sizes=(3,)) == threes
        assert choose(network, kernel_sizes=[1]) == [
            name for name in RESNET_50 if name not in threes
        ]
        assert choose(network, kernel_sizes=(1, 3)) == RESNET_50

    def test_of_the_stem_need_its_stage(self):
        assert choose(resnet(), stages=(0, 4), kernel_sizes=(7,)) == STEM
        with pytest.raises(ValueError, match="kernel_sizes"):
            choose(resnet(), kernel_sizes=(7,))

    def test_tell_depthwise_from_pointwise(self):
        depthwise = [name for name in MOBILENET if "depthwise" in name]
        assert choose(mobilenet(), kernel_sizes=(3,)) == depthwise

    def test_mean_square_kernels(self):
        assert choose(without_blocks(), kernel_sizes=(3,)) == ["0"]
        assert choose(without_blocks(), kernel_sizes=(5, 3)) == ["0", "1.0"]


class TestShortcuts:
    def test_come_with_their_blocks(self):
        chosen = choose(resnet(), shortcuts=True)
        assert sorted(chosen) == sorted(RESNET_18 + SHORTCUTS_18)
        assert set(choose(resnet(), stages=(3,), shortcuts=True)) == {
            *started(RESNET_18, "layer3."),
            "layer3.0.downsample.0",
        }

    def test_are_found_behind_a_pooling(self):
        """The ResNet-D of MMDetection pools before it projects."""
        network = resnet(50, avg_down=True)
        chosen = set(choose(network, shortcuts=True)) - set(choose(network))
        assert len(chosen) == 4
        assert all(".downsample." in name for name in chosen)

    def test_do_not_exist_in_a_mobilenet(self):
        assert choose(mobilenet(), shortcuts=True) == MOBILENET + LAST


class TestLastBlocks:
    @pytest.mark.parametrize(
        "count, first", [(1, "layer4.1"), (2, "layer4.0"), (3, "layer3.1")]
    )
    def test_of_a_resnet(self, count, first):
        chosen = choose(resnet(), last_blocks=count)
        assert chosen == RESNET_18[-2 * count :]
        assert chosen[0] == f"{first}.conv1"

    def test_of_a_resnet_are_the_papers(self):
        blocks = ("layer4.0.", "layer4.1.", "layer4.2.")
        assert choose(resnet(50), last_blocks=3) == started(RESNET_50, *blocks)

    def test_of_a_mobilenet_are_the_papers(self):
        """Six of 17, and not the convolution behind them."""
        chosen = choose(mobilenet(), last_blocks=6)
        assert chosen == started(MOBILENET, "layer5.1", "layer5.2", "layer6", "layer7")
        assert len({name.rsplit(".", 2)[0] for name in chosen}) == 6

    def test_are_counted_in_the_chosen_stages(self):
        chosen = choose(resnet(), stages=(1, 2, 4), last_blocks=3)
        assert chosen == started(RESNET_18, "layer2.1.", "layer4.")

    def test_leave_out_the_stem(self):
        assert choose(resnet(), stages=range(5), last_blocks=8) == RESNET_18

    def test_may_have_shortcuts(self):
        chosen = choose(resnet(), last_blocks=2, shortcuts=True)
        assert set(chosen) == {*RESNET_18[-4:], "layer4.0.downsample.0"}


class TestNames:
    def test_are_whole(self):
        assert choose(resnet(), names=r"layer\d\.0\.conv1") == [
            f"layer{stage}.0.conv1" for stage in (1, 2, 3, 4)
        ]
        with pytest.raises(ValueError, match="names='conv1'"):
            choose(resnet(), names="conv1")  # the stem is no default stage

    def test_reach_the_stem_and_the_shortcuts_where_those_are_allowed(self):
        assert choose(resnet(), stages=(0, 1), names="conv1") == STEM
        assert choose(resnet(), shortcuts=True, names=".*downsample.*") == SHORTCUTS_18

    def test_work_without_blocks(self):
        assert choose(without_blocks(), names=r"1\..*") == ["1.0"]


class TestCombinations:
    @pytest.mark.parametrize(
        "where, expected",
        [
            (
                dict(stages=(3, 4), kernel_sizes=(3,), last_blocks=2),
                ["layer4.1.conv2", "layer4.2.conv2"],
            ),
            (
                dict(
                    stages=(2,), kernel_sizes=(1,), shortcuts=True, names=".*\\.0\\..*"
                ),
                ["layer2.0.conv1", "layer2.0.conv3", "layer2.0.downsample.0"],
            ),
            (
                dict(last_blocks=1, names=".*conv[13]"),
                ["layer4.2.conv1", "layer4.2.conv3"],
            ),
            (dict(stages=(0, 1), kernel_sizes=(7,)), STEM),
        ],
    )
    def test_meet_every_condition(self, where, expected):
        assert choose(resnet(50), **where) == expected

    def test_of_the_tables_of_the_paper(self):
        """Where DCD and the context-gated convolution are."""
        chosen = choose(mobilenet(), stages=range(2, 8), kernel_sizes=(1,))
        assert len(chosen) == 2 * 16
        assert not started(chosen, "layer1.", "conv")
        chosen = choose(resnet(50), stages=range(5), kernel_sizes=(3, 7))
        assert len(chosen) == 1 + 16


def test_subclasses_of_a_convolution_are_not_chosen():
    class Deformable(nn.Conv2d):
        pass

    network = nn.Sequential(Deformable(3, 8, 3), nn.Conv2d(8, 8, 3))
    assert choose(network) == ["1"]


def test_a_convolution_with_two_names_is_chosen_by_both():
    conv = nn.Conv2d(8, 8, 3)
    assert choose(nn.Sequential(conv, nn.ReLU(), conv)) == ["0", "2"]


def test_the_attention_of_a_dynamic_layer_is_not_chosen():
    network = without_blocks()
    swap(network, dict(kernel_sizes=(3,)), ODConv2d)
    assert choose(network) == ["1.0", "2"]


class TestErrors:
    """Each has the value that is wrong, and what would be right."""

    @pytest.mark.parametrize(
        "where, says",
        [
            (dict(stages=(5,)), "stages must be some of [0, 1, 2, 3, 4], got (5,)"),
            (
                dict(stages=(1, -1)),
                "stages must be some of [0, 1, 2, 3, 4], got (1, -1)",
            ),
            (dict(stages=4), "stages must be some of [0, 1, 2, 3, 4], got 4"),
            (dict(stages="34"), "stages must be some of [0, 1, 2, 3, 4], got '34'"),
            (dict(last_blocks=0), "last_blocks must be an int of at least 1, got 0"),
            (
                dict(last_blocks=1.5),
                "last_blocks must be an int of at least 1, got 1.5",
            ),
            (dict(last_blocks=9), "last_blocks must be at most 8"),
            (dict(last_blocks=9), "got 9"),
            (
                dict(stages=(3, 4), last_blocks=5),
                "last_blocks must be at most 4, the number of blocks in stages [3, 4], "
                "got 5",
            ),
            (dict(stages=(0,), last_blocks=1), "at most 0"),
            (dict(kernel_sizes=3), "kernel_sizes"),
            (dict(kernel_sizes=3), "got 3"),
            (dict(kernel_sizes=(5,)), "kernel_sizes=(5,)"),
            (dict(names="conv9"), "names='conv9'"),
            (dict(stages=()), "no convolution"),
            (dict(last_blocks=1, names="conv9"), "last_blocks=1"),
        ],
    )
    def test_name_the_value(self, where, says):
        with pytest.raises(ValueError, match=re.escape(says)):
            choose(resnet(), **where)

    @pytest.mark.parametrize("where", [dict(stages=(1,)), dict(last_blocks=1)])
    def test_say_what_a_network_without_blocks_takes(self, where):
        with pytest.raises(ValueError, match="choose by names or kernel_sizes"):
            choose(without_blocks(), **where)

    def test_say_that_there_is_no_convolution_at_all(self):
        with pytest.raises(ValueError, match="no convolution"):
            choose(nn.Sequential(nn.ReLU()))

    def test_name_a_word_that_does_not_exist(self):
        with pytest.raises(TypeError, match="stage"):
            choose(resnet(), stage=(1,))


def test_the_words_may_come_from_a_config():
    """A tuple of a config file arrives as a list."""
    where = types.MappingProxyType(dict(stages=[4], kernel_sizes=[3]))
    assert choose(resnet(), **where) == RESNET_18[-4:]


def test_blocks_have_their_convolutions_in_order_and_no_shortcuts():
    names = [*STEM, *RESNET_18, *SHORTCUTS_18, "neck.conv"]
    blocks = blocks_of(names)
    assert list(blocks) == [Block("", i, j) for i in (1, 2, 3, 4) for j in (0, 1)]
    assert blocks[Block("", 2, 0)] == ["layer2.0.conv1", "layer2.0.conv2"]


class TestLastNorms:
    @pytest.mark.parametrize("depth, last", [(18, "bn2"), (50, "bn3")])
    def test_of_a_resnet_are_before_the_addition(self, depth, last):
        names = RESNET_18 if depth == 18 else RESNET_50
        assert last_norms(resnet(depth)) == [
            f"layer{block.stage}.{block.number}.{last}" for block in blocks_of(names)
        ]

    def test_of_a_mobilenet_follow_the_linear_convolutions(self):
        assert last_norms(mobilenet()) == [
            f"layer{block.stage}.{block.number}.linear_conv.bn"
            for block in blocks_of(MOBILENET)
        ]

    @pytest.mark.parametrize("layer", [ODConv2d, DCDConv2d])
    def test_are_the_same_in_a_dynamic_network(self, layer):
        """Those in a layer do not count."""
        for network in (ResNet(18, base_channels=16), MobileNetV2(0.25)):
            before = last_norms(network)
            swap(network, {}, layer)
            assert last_norms(network) == before

    def test_are_found_whatever_the_order_in_which_a_block_was_made(self):
        """The norms of a block that lists its convolutions last."""

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.bn1 = nn.BatchNorm2d(16)
                self.bn2 = nn.BatchNorm2d(16)
                self.conv1 = nn.Conv2d(16, 16, 3)
                self.conv2 = nn.Conv2d(16, 16, 3)

        network = nn.ModuleDict({"layer1": nn.Sequential(Block())})
        swap(network, {}, DCDConv2d)
        assert last_norms(network) == ["layer1.0.bn2"]

    def test_do_not_exist_without_blocks(self):
        with pytest.raises(ValueError, match=r"layer1\.0"):
            last_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))

    def test_an_attended_network_is_not_attended_again(self):
        network = ResNet(18, base_channels=16)
        attend(network, SE)
        with pytest.raises(ValueError, match="attention"):
            attend(network, SE)
