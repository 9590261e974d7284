"""What MMDetection expects of its ResNet, of that ResNet itself and of each of ours.

A difference is a decision, and stands in DECISIONS with its reason.
"""

import functools

import pytest
from mmdet.models.backbones import ResNet

from odconv_det.plugin.backbones import DynamicResNet, OD_ResNet, ODResNet
from tests.plugin.resnets import (
    architecture,
    checkpointed,
    context,
    deformable,
    general,
    last_norms,
    plugin,
    plugins,
    second_argument,
    shortcuts,
    stems,
    strides,
)
from tests.plugin.side_by_side import (
    KINDS,
    Decision,
    Expectation,
    assert_decisions,
    decisions_about,
    freezing,
    groups_of,
    maps,
    modes,
    norm_gradients,
    read,
    refusal,
    returned,
    seen,
    with_defaults,
)

# One block of the first stage and of the last: all of them would only take time.
WHERE = dict(where=dict(names=r"layer[14]\.0\..*"))
BACKBONES = {
    "ResNet": ResNet,
    **{
        f"DynamicResNet, {kind}": functools.partial(
            DynamicResNet, **options, **(WHERE if "dynamic" in options else {})
        )
        for kind, options in KINDS.items()
    },
    "ODResNet": functools.partial(ODResNet, **WHERE),
    "OD_ResNet": functools.partial(OD_ResNet, **WHERE),
}
GROUPS = groups_of(BACKBONES)

BASIC = dict(depth=18, base_channels=4)
BOTTLENECK = dict(depth=50, base_channels=4)
GROUP_NORM = dict(type="GN", num_groups=2)


def pyramid(channels, *sizes, batch=2):
    """Shapes of maps whose channels double from each to the next."""
    pairs = [size if isinstance(size, tuple) else (size, size) for size in sizes]
    return [(batch, channels * 2**i, *pair) for i, pair in enumerate(pairs)]


# What is expected ---------------------------------------------------------------------

SHALLOW, DEEP = [(3, 3)] * 2, [(1, 1), (3, 3), (1, 1)]
THIN, WIDE = pyramid(4, 16, 8, 4, 2), pyramid(16, 16, 8, 4, 2)
PLUGGED = pyramid(32, 8, 4, 2, 1)
FROZEN = {i - 1: ("x" * i + "." * (5 - i),) * 2 for i in range(6)}
THREE = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1))
DCN = dict(type="DCN", deform_groups=1)

PLUGINS = {
    "three kinds of plugins, in the stages that are named": Expectation(
        plugins(
            general("after_conv2", (False, True, False, True)),
            plugin("NonLocal2d", "after_conv2", (True, False, False, True)),
            context("after_conv3", (False, True, True, False)),
        ),
        (
            [
                dict(nonlocal_block=8),
                dict(gen_attention_block=16, context_block=64),
                dict(context_block=128),
                dict(gen_attention_block=64, nonlocal_block=64),
            ],
            PLUGGED,
        ),
    ),
    "a plugin twice, told apart by a postfix": Expectation(
        plugins(
            context("after_conv2", (False, True, False, False), postfix=1),
            context("after_conv3", (False, True, True, False), postfix=2),
        ),
        (
            [
                {},
                dict(context_block1=16, context_block2=64),
                dict(context_block2=128),
                {},
            ],
            PLUGGED,
        ),
    ),
    "a convolution as a plugin": Expectation(
        plugins(
            plugin(
                "ConvModule",
                "after_conv1",
                (False, False, True, False),
                out_channels=32,
                kernel_size=3,
                padding=1,
            )
        ),
        ([{}, {}, {"conv_block": 32}, {}], PLUGGED),
    ),
}

BAD_PLUGINS = {
    about: Expectation(refusal("plugin", depth=depth, plugins=added), upstream)
    for about, depth, added, upstream in (
        ("a plugin in a BasicBlock", 18, [context()], "AssertionError"),
        ("a plugin nowhere", 50, [context("after_conv4")], "AssertionError"),
        (
            "two plugins of one name",
            50,
            [context(), context()],
            "AssertionError: plugin",
        ),
        ("an unknown plugin", 50, [plugin("Wrong", "after_conv3")], "KeyError"),
        (
            "a plugin for too few stages",
            50,
            [context(stages=(True, True))],
            "AssertionError",
        ),
    )
}

ARGUMENTS = {
    "every argument has a default": Expectation(
        with_defaults(ResNet, **BASIC), "built"
    ),
    "the second argument is the number of channels": Expectation(second_argument, 1),
    "an argument that there is not": Expectation(
        refusal("nonsense", **BASIC, nonsense=1), "TypeError: nonsense"
    ),
    "defaults": Expectation(
        read("frozen_stages", "out_indices", "norm_eval", **BASIC),
        [-1, (0, 1, 2, 3), True],
    ),
    "pretrained is a file": Expectation(
        read("init_cfg", **BASIC, pretrained="w.pth"),
        [dict(type="Pretrained", checkpoint="w.pth")],
    ),
    **{
        about: Expectation(refusal(next(reversed(options)), **options), upstream)
        for about, options, upstream in (
            ("a depth that there is not", dict(depth=20), "KeyError: depth"),
            ("no stage", dict(BASIC, num_stages=0), "AssertionError"),
            ("five stages", dict(BASIC, num_stages=5), "AssertionError"),
            ("too few strides", dict(BASIC, strides=(1, 2)), "AssertionError"),
            ("too few dilations", dict(BASIC, dilations=(1,)), "AssertionError"),
            (
                "too few stages with or without dcn",
                dict(BOTTLENECK, dcn=DCN, stage_with_dcn=(True,)),
                "AssertionError",
            ),
            (
                "a deformable BasicBlock",
                dict(BASIC, stage_with_dcn=(True,) * 4, dcn=DCN),
                "AssertionError",
            ),
            ("an unknown style", dict(BOTTLENECK, style="tf"), "AssertionError"),
            (
                "a pretrained that is no name",
                dict(BASIC, pretrained=0),
                "TypeError: pretrained",
            ),
            (
                "pretrained and init_cfg",
                dict(BASIC, init_cfg=dict(type="Xavier"), pretrained="w.pth"),
                "AssertionError: pretrained",
            ),
            ("a map too far", dict(BASIC, out_indices=(1, 4)), "AssertionError"),
            ("a map before the first", dict(BASIC, out_indices=(-1,)), "built"),
            ("no map", dict(BASIC, out_indices=()), "ValueError: max()"),
            ("a map that is a number", dict(BASIC, out_indices=3), "TypeError"),
            ("too many frozen", dict(BASIC, frozen_stages=5), "AttributeError"),
            ("fewer than none frozen", dict(BASIC, frozen_stages=-2), "built"),
        )
    },
}

MAPS = {
    **{
        f"depth {depth}": Expectation(architecture(depth), (counts, block, shapes))
        for depth, counts, block, shapes in (
            (18, [2, 2, 2, 2], SHALLOW, THIN),
            (34, [3, 4, 6, 3], SHALLOW, THIN),
            (50, [3, 4, 6, 3], DEEP, WIDE),
            (101, [3, 4, 23, 3], DEEP, WIDE),
            (152, [3, 8, 36, 3], DEEP, WIDE),
        )
    },
    **{
        f"out_indices={out_indices}": Expectation(
            maps(64, **BASIC, out_indices=out_indices), shapes
        )
        for out_indices, shapes in (
            ((0,), THIN[:1]),
            ((1,), THIN[1:2]),
            ((2,), THIN[2:3]),
            ((3,), THIN[3:]),
            ((0, 1, 2), THIN[:3]),
            ([1, 3], THIN[1::2]),
            ((2, 0, 2), THIN[:3:2]),  # in the order of the network, once
            (range(4), THIN),
        )
    },
    "a single image": Expectation(
        maps(64, batch=1, **BASIC), pyramid(4, 16, 8, 4, 2, batch=1)
    ),
    "an odd size": Expectation(
        maps(33, 47, **BOTTLENECK), pyramid(16, (9, 12), (5, 6), (3, 3), (2, 2))
    ),
    "images of one channel": Expectation(maps(64, **BASIC, in_channels=1), THIN),
    "one stage": Expectation(
        maps(64, **BASIC, num_stages=1, strides=(2,), dilations=(1,), out_indices=(0,)),
        pyramid(4, 8),
    ),
    "three stages": Expectation(
        maps(64, **BASIC, **THREE, out_indices=(0, 2), frozen_stages=3), THIN[:3:2]
    ),
    "dilations in place of strides": Expectation(
        maps(64, **BOTTLENECK, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
        pyramid(16, 16, 8, 8, 8),
    ),
    "a deep stem": Expectation(maps(64, **BASIC, deep_stem=True), THIN),
    "averaged shortcuts, of an odd size": Expectation(
        maps(37, batch=1, **BOTTLENECK, avg_down=True),
        pyramid(16, 10, 5, 3, 2, batch=1),
    ),
    "shortcuts": Expectation(
        shortcuts(**BASIC), ["", "", "Conv2d", "", "Conv2d", "", "Conv2d", ""]
    ),
    "averaged shortcuts": Expectation(
        shortcuts(**BASIC, avg_down=True), ["", "", *["AvgPool2d Conv2d", ""] * 3]
    ),
    "stems": Expectation(
        stems(
            dict(base_channels=3),
            dict(base_channels=2, stem_channels=5),
            dict(base_channels=2, stem_channels=6, deep_stem=True),
        ),
        [[3, 3], [5, 5], [3, 3, 6, 6]],
    ),
    "pytorch's style": Expectation(strides("pytorch"), [(1, 1), (2, 2), (1, 1)]),
    "caffe's style": Expectation(strides("caffe"), [(2, 2), (1, 1), (1, 1)]),
    "deformable convolutions": Expectation(
        deformable, ([False, True, False, True], WIDE)
    ),
    "with_cp": Expectation(checkpointed(**BASIC), ({True}, THIN)),
    "with_cp of Bottlenecks": Expectation(checkpointed(**BOTTLENECK), ({True}, WIDE)),
}

MODES = {
    "frozen stages": Expectation(freezing(*FROZEN, **BASIC), FROZEN),
    "frozen stages before train()": Expectation(
        freezing(2, train=False, **BASIC), {2: FROZEN[2]}
    ),
    "frozen stages behind a deep stem": Expectation(
        freezing(0, 1, **BASIC, deep_stem=True), {i: FROZEN[i] for i in (0, 1)}
    ),
    "stages behind the last map": Expectation(
        freezing(-1, **BASIC, out_indices=(0, 2)), {-1: (".....", ".....")}
    ),
    "norm_eval": Expectation(
        modes(**BASIC, norm_eval=True), [{"BN": {False}}, {"BN": {False}}]
    ),
    "no norm_eval": Expectation(
        modes(**BASIC, norm_eval=False), [{"BN": {True}}, {"BN": {False}}]
    ),
    "GroupNorm": Expectation(
        modes(**BOTTLENECK, norm_cfg=GROUP_NORM), [{"GN": {True}}, {"GN": {False}}]
    ),
    "maps of GroupNorm": Expectation(maps(64, **BOTTLENECK, norm_cfg=GROUP_NORM), WIDE),
    "norms without gradients": Expectation(
        norm_gradients(**BASIC, norm_cfg=dict(type="BN", requires_grad=False)), {False}
    ),
    **{
        f"zero_init_residual={zero} of depth {depth}": Expectation(
            last_norms(depth=depth, base_channels=4, zero_init_residual=zero),
            [{zero}, {False}],
        )
        for zero in (True, False)
        for depth in (18, 50)
    },
    "what train and eval return": Expectation(returned(**BASIC), [False, False]),
}

EXPECTATIONS = {**ARGUMENTS, **MAPS, **PLUGINS, **BAD_PLUGINS, **MODES}

ONE_KIND = "an argument out of its range is a ValueError that names it"
BOTH = "plugins and feature attention would both stand behind the last norm of a block"
DECISIONS = {
    ("but the release's", "the second argument is the number of channels"): Decision(
        "taken by name only", "all arguments but the depth are taken by name"
    ),
    ("the release's", "the second argument is the number of channels"): Decision(
        3, "the release's second argument is num_classes, which is not used"
    ),
    ("the release's", "defaults"): Decision(
        [0, (0, 1, 2, 3), True], "the release freezes the stem if nothing is said"
    ),
    **{
        ("ours", about): Decision(f"ValueError: {argument}", ONE_KIND)
        for about, argument in (
            ("a depth that there is not", "depth"),
            ("no stage", "num_stages"),
            ("five stages", "num_stages"),
            ("a map too far", "out_indices"),
            ("a map before the first", "out_indices"),
            ("no map", "out_indices"),
            ("a map that is a number", "out_indices"),
            ("too many frozen", "frozen_stages"),
            ("fewer than none frozen", "frozen_stages"),
        )
    },
    **{
        ("feature attention", about): Decision(
            "ValueError: plugins",
            BOTH,
        )
        for about in {**PLUGINS, **BAD_PLUGINS}
    },
    **{
        ("feature attention", about): Decision(
            "ValueError: feature",
            "it is part of the BatchNorm that it stands behind, also for inflate()",
        )
        for about in ("GroupNorm", "maps of GroupNorm")
    },
    ("norms inside", "GroupNorm"): Decision(
        [{"GN": {True}, "BN": {False}}, {"GN": {False}, "BN": {False}}],
        "the paper normalises the attention over the batch, whatever the network does",
    ),
    ("ours", "stages behind the last map"): Decision(
        {-1: ("....x", ".....")}, "they never get a gradient, which DDP refuses"
    ),
    ("ours", "what train and eval return"): Decision(
        [True, True], "`net = Net().eval()` works, as with any other module"
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
