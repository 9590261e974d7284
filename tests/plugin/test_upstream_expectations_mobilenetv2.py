"""What MMDetection expects of its MobileNetV2, of that one itself and of each of ours.

A difference is a decision, and stands in DECISIONS with its reason.
"""

import functools

import pytest
from mmcv.cnn import ConvModule
from mmdet.models.backbones import MobileNetV2
from torch import nn

from odconv_det.plugin.backbones import (
    DynamicMobileNetV2,
    OD_MobileNetV2,
    ODMobileNetV2,
)
from tests.plugin.side_by_side import (
    KINDS,
    Decision,
    Expectation,
    assert_decisions,
    blocks,
    decisions_about,
    freezing,
    groups_of,
    maps,
    modes,
    norm_gradients,
    parts,
    read,
    refusal,
    returned,
    seen,
    with_defaults,
)

# Each kind of convolution, with a stride and without: all would only take time.
WHERE = dict(where=dict(names=r"(layer[12]\.0|conv2)\..*"))


def od_mobilenet(widen_factor=1.0, **options):
    return OD_MobileNetV2(width_mult=widen_factor, **WHERE, **options)


BACKBONES = {
    "MobileNetV2": MobileNetV2,
    **{
        f"DynamicMobileNetV2, {kind}": functools.partial(
            DynamicMobileNetV2, **options, **(WHERE if "dynamic" in options else {})
        )
        for kind, options in KINDS.items()
    },
    "ODMobileNetV2": functools.partial(ODMobileNetV2, **WHERE),
    "OD_MobileNetV2": od_mobilenet,
}
GROUPS = groups_of(BACKBONES)

SMALL = dict(widen_factor=0.25)
GROUP_NORM = dict(type="GN", num_groups=2)


def scaled(*channels, size=64, batch=2):
    """Shapes of the eight maps, or of the first of them."""
    strides = (2, 4, 8, 16, 16, 32, 32, 32)
    return [
        (batch, width, -(-size // stride), -(-size // stride))
        for width, stride in zip(channels, strides, strict=False)
    ]


# Ways to look -------------------------------------------------------------------------


def widths(widen_factor):
    """Channels of the stem, inside and behind the blocks of each stage, and at last."""

    def look(build):
        network = build(widen_factor=widen_factor)
        firsts = [stage[0] for [stage] in parts(network)[1:-1]]
        return [
            network.conv1.conv.out_channels,
            [block.depthwise_conv.conv.out_channels for block in firsts],
            [block.linear_conv.conv.out_channels for block in firsts],
            network.conv2.conv.out_channels,
        ]

    return look


def activations(**options):
    """Of everything but the end of a block."""

    def look(build):
        modules = build(**SMALL, **options).modules()
        convs = [one for one in modules if isinstance(one, ConvModule)]
        kinds = (nn.ReLU6, nn.ReLU)
        return [
            kind.__name__
            for kind in kinds
            if any(c.with_activation and isinstance(c.activate, kind) for c in convs)
        ], sum(not c.with_activation for c in convs)

    return look


def strides(build):
    """Of the depthwise convolutions of each stage."""
    stages = [stage for [stage] in parts(build(**SMALL))[1:-1]]
    return [[block.depthwise_conv.conv.stride[0] for block in s] for s in stages]


def ones(build):
    """Whether init_weights leaves every norm at one, and its shift at zero."""
    network = build(**SMALL)
    network.init_weights()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    return all(m.weight.eq(1).all() and not m.bias.any() for m in norms)


def checkpointed(build):
    network = build(**SMALL, with_cp=True)
    return {block.with_cp for block in blocks(network)}, maps(64)(lambda: network)


# What is expected ---------------------------------------------------------------------

ALL = scaled(8, 8, 8, 16, 24, 40, 80, 1280)
LAST = [ALL[i] for i in (1, 2, 4, 7)]
FROZEN = {
    -1: (".........", "........."),
    0: ("x........", "........."),
    3: ("xxxx.....", ".xxx....."),
    7: ("xxxxxxxx.", ".xxxxxxx."),
}
EXPECTATIONS = {
    # Arguments
    "every argument has a default": Expectation(
        with_defaults(MobileNetV2, **SMALL), "built"
    ),
    "an argument that there is not": Expectation(
        refusal("nonsense", **SMALL, nonsense=1), "TypeError: nonsense"
    ),
    "defaults": Expectation(
        read("frozen_stages", "out_indices", "norm_eval", **SMALL),
        [-1, (1, 2, 4, 7), False],
    ),
    "pretrained is a file": Expectation(
        read("init_cfg", **SMALL, pretrained="w.pth"),
        [dict(type="Pretrained", checkpoint="w.pth")],
    ),
    **{
        about: Expectation(refusal(next(reversed(options)), **options), upstream)
        for about, options, upstream in (
            (
                "a pretrained that is no name",
                dict(SMALL, pretrained=0),
                "TypeError: pretrained",
            ),
            (
                "pretrained and init_cfg",
                dict(SMALL, init_cfg=dict(type="Xavier"), pretrained="w.pth"),
                "AssertionError: pretrained",
            ),
            ("a map too far", dict(out_indices=[8]), "ValueError: out_indices"),
            (
                "a map before the first",
                dict(out_indices=(-1,)),
                "ValueError: out_indices",
            ),
            ("no map", dict(SMALL, out_indices=()), "built"),
            ("a map that is a number", dict(out_indices=3), "TypeError"),
            ("all frozen", dict(SMALL, frozen_stages=8), "ValueError: frozen_stages"),
            ("too many frozen", dict(frozen_stages=9), "ValueError: frozen_stages"),
            (
                "fewer than none frozen",
                dict(frozen_stages=-2),
                "ValueError: frozen_stages",
            ),
            ("a width that is text", dict(widen_factor="1"), "TypeError"),
        )
    },
    # Widths
    **{
        f"{widen_factor} wide": Expectation(
            widths(widen_factor), [stem, inside, outside, last]
        )
        for widen_factor, stem, inside, outside, last in (
            (
                0.35,
                16,
                [16, 48, 48, 96, 144, 192, 336],
                [8, 8, 16, 24, 32, 56, 112],
                1280,
            ),
            (
                0.5,
                16,
                [16, 48, 96, 96, 192, 288, 480],
                [8, 16, 16, 32, 48, 80, 160],
                1280,
            ),
            (
                0.75,
                24,
                [24, 96, 144, 144, 288, 432, 720],
                [16, 24, 24, 48, 72, 120, 240],
                1280,
            ),
            (
                1.0,
                32,
                [32, 96, 144, 192, 384, 576, 960],
                [16, 24, 32, 64, 96, 160, 320],
                1280,
            ),
            (
                1.4,
                48,
                [48, 144, 192, 288, 528, 816, 1344],
                [24, 32, 48, 88, 136, 224, 448],
                1792,
            ),
            (
                2.0,
                64,
                [64, 192, 288, 384, 768, 1152, 1920],
                [32, 48, 64, 128, 192, 320, 640],
                2560,
            ),
        )
    },
    "no width": Expectation(widths(0), [8, [8, *[48] * 6], [8] * 7, 1280]),
    "strides": Expectation(
        strides, [[1], [2, 1], [2, 1, 1], [2, 1, 1, 1], [1] * 3, [2, 1, 1], [1]]
    ),
    # Maps
    **{
        f"out_indices={out_indices}": Expectation(
            maps(64, **SMALL, out_indices=out_indices), [ALL[i] for i in shown]
        )
        for out_indices, shown in (
            ((0,), (0,)),
            ((7,), (7,)),
            ((0, 2, 4), (0, 2, 4)),
            ([4, 1], (1, 4)),  # in the order of the network
            (range(8), range(8)),
        )
    },
    "maps by default": Expectation(maps(64, **SMALL), LAST),
    "maps of the usual width": Expectation(
        maps(32, widen_factor=1.0),
        [scaled(16, 24, 32, 64, 96, 160, 320, 1280, size=32)[i] for i in (1, 2, 4, 7)],
    ),
    "a single image": Expectation(
        maps(64, batch=1, **SMALL), [(1, *shape[1:]) for shape in LAST]
    ),
    "an odd size": Expectation(
        maps(33, 65, **SMALL),
        [(2, 8, 9, 17), (2, 8, 5, 9), (2, 24, 3, 5), (2, 1280, 2, 3)],
    ),
    "ReLU6": Expectation(activations(), (["ReLU6"], 17)),
    "ReLU": Expectation(activations(act_cfg=dict(type="ReLU")), (["ReLU"], 17)),
    "no activation": Expectation(activations(act_cfg=None), ([], 52)),
    "with_cp": Expectation(checkpointed, ({True}, LAST)),
    # Modes and norms
    "frozen stages": Expectation(freezing(*FROZEN, **SMALL), FROZEN),
    "frozen stages before train()": Expectation(
        freezing(3, train=False, **SMALL), {3: (".........", ".........")}
    ),
    "stages behind the last map": Expectation(
        freezing(-1, **SMALL, out_indices=(0, 2)), {-1: (".........", ".........")}
    ),
    "norm_eval": Expectation(
        modes(**SMALL, norm_eval=True), [{"BN": {False}}, {"BN": {False}}]
    ),
    "no norm_eval": Expectation(
        modes(**SMALL, norm_eval=False), [{"BN": {True}}, {"BN": {False}}]
    ),
    "GroupNorm": Expectation(
        modes(**SMALL, norm_cfg=GROUP_NORM, norm_eval=True),
        [{"GN": {True}}, {"GN": {False}}],
    ),
    "maps of GroupNorm": Expectation(maps(64, **SMALL, norm_cfg=GROUP_NORM), LAST),
    "norms without gradients": Expectation(
        norm_gradients(**SMALL, norm_cfg=dict(type="BN", requires_grad=False)), {False}
    ),
    "norms that init_weights leaves at one": Expectation(ones, True),
    "what train and eval return": Expectation(returned(**SMALL), [False, False]),
}

ONE_KIND = "an argument out of its range is a ValueError that names it"
STEM = "a frozen stem keeps its statistics, as that of upstream's ResNet does"
EARLY = "DDP counts the parameters that need a gradient before train()"
BY_STRIDE = "the release counts its five strides, and not the layers"
DECISIONS = {
    **{
        ("ours", about): Decision("ValueError: out_indices", ONE_KIND)
        for about in ("no map", "a map that is a number")
    },
    ("but the release's", "all frozen"): Decision("built", "8 freezes conv2 as well"),
    ("but the release's", "frozen stages"): Decision(
        {i: ("x" * (i + 1) + "." * (8 - i),) * 2 for i in FROZEN}, STEM
    ),
    ("but the release's", "frozen stages before train()"): Decision(
        {3: ("xxxx.....", "xxxx.....")}, EARLY
    ),
    ("ours", "stages behind the last map"): Decision(
        {-1: ("....xxxxx", ".........")}, "they never get a gradient, which DDP refuses"
    ),
    ("norms inside", "GroupNorm"): Decision(
        [{"GN": {True}, "BN": {False}}, {"GN": {False}, "BN": {False}}],
        "the paper normalises the attention over the batch, whatever the network does",
    ),
    **{
        ("feature attention", about): Decision(
            "ValueError: feature", "it is part of the BatchNorm that it stands behind"
        )
        for about in ("GroupNorm", "maps of GroupNorm")
    },
    ("ours", "what train and eval return"): Decision(
        [True, True], "`net = Net().eval()` works, as with any other module"
    ),
    ("the release's", "defaults"): Decision(
        [1, (1, 2, 4, 7), True], "the release freezes the stem and norms by default"
    ),
    ("the release's", "every argument has a default"): Decision(
        "ValueError: out_indices", BY_STRIDE
    ),
    ("the release's", "out_indices=(7,)"): Decision(
        "ValueError: out_indices", BY_STRIDE
    ),
    ("the release's", "out_indices=(0, 2, 4)"): Decision(
        [ALL[i] for i in (0, 2, 7)], BY_STRIDE
    ),
    ("the release's", "out_indices=[4, 1]"): Decision(
        [ALL[i] for i in (1, 7)], BY_STRIDE
    ),
    ("the release's", "out_indices=range(0, 8)"): Decision(
        "ValueError: out_indices", BY_STRIDE
    ),
    ("the release's", "frozen stages"): Decision(
        "ValueError: frozen_stages", BY_STRIDE
    ),
    ("the release's", "frozen stages before train()"): Decision(
        {3: ("xxxxxx...", "xxxxxx...")}, BY_STRIDE
    ),
}


@pytest.mark.parametrize("about", EXPECTATIONS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_is_upstreams_or_decided_otherwise(backbone, about):
    look, expected = EXPECTATIONS[about]
    for decision in decisions_about(about, backbone, DECISIONS, GROUPS):
        expected = decision.ours
    assert seen(look, BACKBONES[backbone]) == expected


def test_decisions_are_differences():
    assert_decisions(DECISIONS, GROUPS, EXPECTATIONS)
