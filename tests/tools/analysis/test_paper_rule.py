"""The rules give the figures of the paper's tables wherever they are known to."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tools"))

from analysis import imagenet, tables, zoo  # noqa: E402
from analysis.paper_rule import paper_rule  # noqa: E402

from odconv_det.complexity import trace  # noqa: E402

R18, R50, R101 = "ResNet-18", "ResNet-50", "ResNet-101"
M100, M75, M50 = "MobileNetV2 1.0x", "MobileNetV2 0.75x", "MobileNetV2 0.5x"

# What the rule gives where that is not what the paper prints; None: no rule.
OTHERWISE = {
    (R18, "DCD"): None,
    (R50, "DCD"): None,
    (M100, "DCD"): None,
    (M75, "DCD"): None,
    (M50, "DCD"): None,
    (R18, "WE"): None,
    (R50, "WE"): None,
    (R18, "CGC"): "1.828",
    (R50, "CGC"): "3.872",
    (R18, "WeightNet"): "1.825",
    (R50, "WeightNet"): "3.883",
    (R50, "ECA"): "3.869",
    (R101, "ECA"): "7.588",
    (R18, "spatial + channel + filter + kernel"): "1.917",
    (M100, "DyConv 4x"): "317.0",
    (M100, "ODConv 1x"): "311.7",
    (M75, "ODConv 1x"): "217.0",
    (M50, "ODConv 1x"): "101.7",
    # With the pool of the blocks' inputs; experts are counted where they are.
    (M100, "CondConv 8x"): "323.0",
    (M75, "CondConv 8x"): "226.1",
    (M50, "CondConv 8x"): "110.5",
}

# The plain rule, in the unit of the table; ResNets with the stride in the 3x3.
PLAIN = {
    (R18, "ODConv 1x"): "1.825",
    (R18, "ODConv 2x"): "1.847",
    (R18, "ODConv 3x"): "1.858",
    (R18, "ODConv 4x"): "1.869",
    (R18, "ODConv 8x"): "1.913",
    (R50, "ODConv 1x"): "4.104",
    (R50, "ODConv 4x"): "4.186",
    (R101, "ODConv 1x"): "7.829",
    (R101, "ODConv 2x"): "7.908",
    (M100, "ODConv 1x"): "302.2",
    (M100, "ODConv 4x"): "311.0",
    (M75, "ODConv 1x"): "210.0",
    (M75, "ODConv 4x"): "215.3",
    (M50, "ODConv 1x"): "97.6",
    (M50, "ODConv 4x"): "100.3",
    (R18, "spatial"): "1.825",
    (R18, "channel"): "1.815",
    (R18, "filter"): "1.815",
    (R18, "spatial + channel"): "1.826",
    (R18, "spatial + filter"): "1.826",
    (R18, "channel + filter"): "1.815",
    (R18, "spatial + channel + filter"): "1.826",
    (R18, "spatial + channel + filter + kernel"): "1.870",
    (R18, "DyConv 4x"): "1.859",
    (R50, "DyConv 4x"): "4.188",
    (M100, "DyConv 4x"): "311.9",
    (M75, "DyConv 4x"): "215.7",
    (M50, "DyConv 4x"): "100.4",
    (R18, "CondConv 8x"): "1.894",
    (R50, "CondConv 8x"): "4.208",
    (M100, "CondConv 8x"): "322.9",
    (M75, "CondConv 8x"): "226.1",
    (M50, "CondConv 8x"): "110.4",
    (R18, "DCD"): "1.883",
    (R50, "DCD"): "4.373",
    (M100, "DCD"): "398.4",
    (M75, "DCD"): "285.4",
    (M50, "DCD"): "132.2",
    (R18, "SE"): "1.814",
    (R50, "SE"): "4.092",
    (R101, "SE"): "7.806",
    (R18, "CBAM"): "1.815",
    (R50, "CBAM"): "4.096",
    (R101, "CBAM"): "7.813",
    (R18, "ECA"): "1.814",
    (R50, "ECA"): "4.089",
    (R101, "ECA"): "7.802",
    (R18, "CGC"): "1.826",
    (R50, "CGC"): "4.101",
    (R18, "WeightNet"): "1.825",
    (R50, "WeightNet"): "4.115",
    (R18, "WE"): "1.814",
    (R50, "WE"): "4.089",
}


def row_of(network, system):
    rows = (r for r in tables.IMAGENET if (r.network, r.system) == (network, system))
    return next(rows)


NETWORKS = list(dict.fromkeys((r.network, r.system) for r in tables.IMAGENET))


@pytest.mark.parametrize("network, system", NETWORKS)
def test_gives_the_digits_of_the_paper(network, system):
    row = row_of(network, system)
    rule = zoo.count_imagenet(row).paper_rule
    digits = len(row.madds.partition(".")[2])
    given = None if rule is None else f"{rule / row.unit:.{digits}f}"
    assert given == OTHERWISE.get((network, system), row.madds)


@pytest.mark.parametrize("network, system", PLAIN)
def test_the_plain_rule(network, system):
    row = row_of(network, system)
    digits = len(row.madds.partition(".")[2])
    counted = zoo.count_imagenet(row)
    assert f"{counted.multiply_adds / row.unit:.{digits}f}" == PLAIN[network, system]


@pytest.mark.parametrize(
    "depth, multiply_adds", [(50, 3_857_973_248), (101, 7_570_194_432)]
)
def test_the_base_has_its_stride_in_the_first_convolution(depth, multiply_adds):
    network = imagenet.build(dict(type="DynamicResNet", depth=depth, style="caffe"))
    calls = trace(network, (1, 3, 224, 224))
    assert paper_rule(calls) == multiply_adds
    assert sum(call.multiply_adds for call in calls) == multiply_adds


def test_odconv_by_hand():
    dynamic = dict(type="ODConv2d", kernel_num=4)
    where = dict(names=r"layer2\.0\.conv1")
    static, ours = (
        paper_rule(trace(imagenet.build(backbone), (1, 3, 64, 64)))
        for backbone in (
            dict(type="DynamicResNet", depth=18),
            dict(type="DynamicResNet", depth=18, dynamic=dynamic, where=where),
        )
    )

    kernel, pixels = 128 * 64 * 9, 8 * 8
    attention = 16 * (64 + 64 + 128 + 9 + 4)
    # Four kernels are scaled and summed, and the sum scaled by a tensor of attentions,
    # which is spatial times channel, times filter.
    expected = attention + 64 * pixels + 9 * 64 + kernel + kernel + 7 * kernel
    for ins, outs, out_pixels in ((64, 128, 64), (128, 256, 16), (256, 512, 4)):
        # The shortcuts, as if they were dynamic as well.
        hidden, kernel = max(ins // 16, 16), ins * outs
        attention = hidden * (ins + ins + outs + 4)
        expected += attention + ins * out_pixels + kernel + kernel + 7 * kernel

    assert ours - static == expected


@pytest.mark.parametrize(
    "system, multiply_adds",
    [
        ("static", "24.45"),
        ("CondConv 8x", "24.47"),
        ("DyConv 4x", "24.88"),
        ("ODConv 1x", "24.88"),
        ("ODConv 4x", "24.89"),
    ],
)
def test_backbones_of_the_coco_table_at_four_times_the_pixels(system, multiply_adds):
    rows = [r for r in tables.COCO if (r.network, r.system) == (M100, system)]
    assert len(rows) == 2
    for row in rows:
        rule = zoo.count_coco(row).backbone_paper_rule
        assert f"{rule / 10**9:.2f}" == multiply_adds
