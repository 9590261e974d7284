"""Every network of the paper's tables has the parameters that the settings give it."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

from analysis import complexity, tables, zoo  # noqa: E402

R18, R50, R101 = "ResNet-18", "ResNet-50", "ResNet-101"
M100, M75, M50 = "MobileNetV2 1.0x", "MobileNetV2 0.75x", "MobileNetV2 0.5x"

# All 59 networks of the 63 rows on ImageNet.
PARAMETERS = {
    (R18, "static"): 11_689_512,
    (R18, "CondConv 8x"): 81_345_120,
    (R18, "DyConv 4x"): 45_472_052,
    (R18, "DCD"): 14_703_332,
    (R18, "ODConv 1x"): 11_943_944,
    (R18, "ODConv 2x"): 22_930_056,
    (R18, "ODConv 3x"): 33_915_848,
    (R18, "ODConv 4x"): 44_901_640,
    (R18, "ODConv 8x"): 88_844_808,
    (R18, "SE"): 11_776_552,
    (R18, "CBAM"): 11_777_336,
    (R18, "ECA"): 11_689_536,
    (R18, "CGC"): 11_721_791,
    (R18, "WeightNet"): 11_923_784,
    (R18, "WE"): 11_846_178,
    (R18, "spatial"): 11_982_632,
    (R18, "channel"): 12_261_896,
    (R18, "filter"): 12_283_848,
    (R18, "spatial + channel"): 12_269_672,
    (R18, "spatial + filter"): 12_291_624,
    (R18, "channel + filter"): 12_570_888,
    (R18, "spatial + channel + filter"): 12_578_664,
    (R18, "spatial + channel + filter + kernel"): 45_538_536,
    (R50, "static"): 25_557_032,
    (R50, "CondConv 8x"): 129_864_800,
    (R50, "DyConv 4x"): 100_878_072,
    (R50, "DCD"): 29_835_056,
    (R50, "ODConv 1x"): 28_635_112,
    (R50, "ODConv 4x"): 90_670_888,
    (R50, "SE"): 28_071_976,
    (R50, "CBAM"): 28_073_544,
    (R50, "ECA"): 25_557_080,
    (R50, "CGC"): 25_589_951,
    (R50, "WeightNet"): 30_400_232,
    (R50, "WE"): 28_059_058,
    (R101, "static"): 44_549_160,
    (R101, "SE"): 49_292_328,
    (R101, "CBAM"): 49_295_562,
    (R101, "ECA"): 44_549_259,
    (R101, "ODConv 1x"): 50_818_769,
    (R101, "ODConv 2x"): 90_441_623,
    (M100, "static"): 3_504_872,
    (M100, "CondConv 8x"): 22_877_496,
    (M100, "DyConv 4x"): 12_404_540,
    (M100, "DCD"): 5_720_028,
    (M100, "ODConv 1x"): 4_940_185,
    (M100, "ODConv 4x"): 11_512_149,
    (M75, "static"): 2_636_424,
    (M75, "CondConv 8x"): 17_513_176,
    (M75, "DyConv 4x"): 7_948_422,
    (M75, "DCD"): 4_081_621,
    (M75, "ODConv 1x"): 3_507_113,
    (M75, "ODConv 4x"): 7_496_013,
    (M50, "static"): 1_968_680,
    (M50, "CondConv 8x"): 13_612_920,
    (M50, "DyConv 4x"): 4_567_338,
    (M50, "DCD"): 3_056_616,
    (M50, "ODConv 1x"): 2_425_537,
    (M50, "ODConv 4x"): 4_435_501,
}
# The figures that differ at the digits printed: ours less the paper's, in millions.
DIFFERENCES = {
    (M50, "static"): -0.031,
    (M100, "ODConv 4x"): -0.008,
    (R18, "CGC"): 0.032,
    (R18, "WeightNet"): -0.006,
    (R50, "WeightNet"): 0.020,
    (R18, "WE"): -0.054,
    (R50, "WE"): -0.041,
}

FASTER, MASK = "Faster R-CNN", "Mask R-CNN"
NECK_AND_HEADS = {
    (FASTER, R50): 18_245_024,
    (MASK, R50): 20_888_304,
    (FASTER, M100): 17_628_576,
    (MASK, M100): 20_271_856,
}
STATIC_CLASSIFIER = {R50: 2_049_000, M100: 1_281_000}
# Experts of the classifier, and its routing; static in detection.
EXPERTS = {R50: 16_400_392, M100: 10_250_248}
# Detectors with the classifier that the authors' backbones still hold.
WITH_CLASSIFIER = {
    (FASTER, R50, "static"): 43_802_056,
    (FASTER, R50, "CondConv 8x"): 133_758_432,
    (FASTER, R50, "DyConv 4x"): 119_123_096,
    (FASTER, R50, "DCD"): 48_080_080,
    (FASTER, R50, "ODConv 1x"): 46_880_136,
    (FASTER, R50, "ODConv 4x"): 108_915_912,
    (FASTER, M100, "static"): 21_133_448,
    (FASTER, M100, "CondConv 8x"): 31_536_824,
    (FASTER, M100, "DyConv 4x"): 30_033_116,
    (FASTER, M100, "DCD"): 23_348_604,
    (FASTER, M100, "ODConv 1x"): 22_568_761,
    (FASTER, M100, "ODConv 4x"): 29_140_725,
    (MASK, R50, "static"): 46_445_336,
    (MASK, R50, "CondConv 8x"): 136_401_712,
    (MASK, R50, "DyConv 4x"): 121_766_376,
    (MASK, R50, "DCD"): 50_723_360,
    (MASK, R50, "ODConv 1x"): 49_523_416,
    (MASK, R50, "ODConv 4x"): 111_559_192,
    (MASK, M100, "static"): 23_776_728,
    (MASK, M100, "CondConv 8x"): 34_180_104,
    (MASK, M100, "DyConv 4x"): 32_676_396,
    (MASK, M100, "DCD"): 25_991_884,
    (MASK, M100, "ODConv 1x"): 25_212_041,
    (MASK, M100, "ODConv 4x"): 31_784_005,
}


def imagenet(network, system):
    rows = (r for r in tables.IMAGENET if (r.network, r.system) == (network, system))
    return next(rows)


def name(row):
    return f"{row.detector}, {row.network}, {row.system}"


def test_the_tables_have_all_rows():
    assert len(tables.IMAGENET) == 63
    assert {(row.network, row.system) for row in tables.IMAGENET} == set(PARAMETERS)
    assert len(tables.COCO) == 24
    keys = {(row.detector, row.network, row.system) for row in tables.COCO}
    assert keys == set(WITH_CLASSIFIER)


def test_a_network_in_two_tables_has_the_same_figures():
    figures = {}
    for row in tables.IMAGENET:
        own = (row.params, row.madds, row.top1, row.top5, row.backbone)
        assert figures.setdefault((row.network, row.system), own) == own


@pytest.mark.parametrize("network, system", PARAMETERS)
def test_parameters_on_imagenet(network, system):
    row = imagenet(network, system)
    counted = zoo.count_imagenet(row)
    assert counted.parameters == PARAMETERS[network, system]
    difference = counted.parameters / 10**6 - float(row.params)
    if (network, system) in DIFFERENCES:
        expected = DIFFERENCES[network, system]
        assert difference == pytest.approx(expected, abs=6e-4)
    else:
        assert f"{counted.parameters / 10**6:.2f}" == row.params


@pytest.mark.parametrize("row", tables.COCO, ids=name)
def test_parameters_on_coco(row):
    key = (row.detector, row.network, row.system)
    counted = zoo.count_coco(row)
    assert counted.paper_parameters == WITH_CLASSIFIER[key]
    # The same from the parts.
    own = PARAMETERS[row.network, row.system]
    if row.system == "CondConv 8x":
        own += STATIC_CLASSIFIER[row.network] - EXPERTS[row.network]
    rest = NECK_AND_HEADS[row.detector, row.network]
    assert counted.paper_parameters == own + rest
    assert counted.paper_backbone == own - STATIC_CLASSIFIER[row.network]
    assert counted.parameters == counted.backbone + rest
    # The paper added rounded figures.
    whole, backbone = map(float, row.params)
    assert counted.paper_parameters / 10**6 == pytest.approx(whole, abs=0.0165)
    assert counted.paper_backbone / 10**6 == pytest.approx(backbone, abs=0.0095)


def test_no_detector_holds_a_classifier():
    for row in tables.COCO:
        counted = zoo.count_coco(row)
        if row.system != "DCD":
            classifier = counted.paper_parameters - counted.parameters
            assert classifier == STATIC_CLASSIFIER[row.network]
            assert counted.paper_backbone == counted.backbone


@pytest.mark.parametrize(
    "network, multiply_adds",
    [
        (R18, 1_814_073_344),
        (R50, 4_089_184_256),
        (R101, 7_801_405_440),
        (M100, 300_774_272),
        (M75, 209_069_792),
        (M50, 97_131_840),
    ],
)
def test_multiply_adds_of_the_static_networks(network, multiply_adds):
    counted = zoo.count_imagenet(imagenet(network, "static"))
    assert counted.multiply_adds == multiply_adds


def test_a_figure_that_does_not_follow_has_a_note_and_no_other_has():
    for row in tables.IMAGENET:
        counted = zoo.count_imagenet(row)
        digits = len(row.madds.partition(".")[2])
        rule = counted.paper_rule
        follows = (
            (row.network, row.system) not in DIFFERENCES
            and rule is not None
            and f"{rule / row.unit:.{digits}f}" == row.madds
        )
        assert follows == (row.note is None), (row.network, row.system)


def test_every_note_is_used():
    page = (ROOT / "docs" / "model-zoo.md").read_text()
    unused = [key for key, note in tables.NOTES.items() if note not in page]
    assert tables.NOTES
    assert unused == []


def test_json_has_the_printed_figures_and_integers():
    content = json.loads(json.dumps(zoo.as_json()))
    assert [len(rows) for rows in content.values()] == [63, 24]
    first = content["imagenet"][0]
    assert first["params"] == "11.69"
    assert first["counted"]["parameters"] == 11_689_512
    assert first["backbone"] == {"type": "DynamicResNet", "depth": 18}
    assert content["coco"][0]["counted"]["backbone"] == 23_508_032


def test_the_page_shows_what_the_tool_counts_now():
    page = ROOT / "docs" / "model-zoo.md"
    text = page.read_text()
    assert zoo.rendered(text) == text


def test_the_command_writes_page_and_json(tmp_path, monkeypatch, capsys):
    page, numbers = tmp_path / "page.md", tmp_path / "rows.json"
    page.write_text("# Rows\n\n<!-- table: COCO -->\n<!-- end -->\n")
    words = ["complexity.py", "--table", "--out", str(page), "--json", str(numbers)]
    monkeypatch.setattr(sys, "argv", words)
    complexity.main()
    assert capsys.readouterr().out == f"written to {page}\n"
    assert page.read_text().count("| Faster R-CNN |") == 12
    assert len(json.loads(numbers.read_text())["imagenet"]) == 63


def test_the_page_has_every_table():
    text = (ROOT / "docs" / "model-zoo.md").read_text()
    for heading in [*(row.table for row in tables.IMAGENET), "COCO"]:
        assert text.count(f"<!-- table: {heading} -->") == 1
    assert text.count("reported by the authors") == 6
    lines = text.splitlines()
    for row in tables.COCO:
        assert sum(f"(../{row.config})" in line for line in lines) == 1
        assert (ROOT / row.config).is_file()


@pytest.mark.parametrize(
    "text, reason",
    [
        ("no table", "no place for a table"),
        ("<!-- table: Cocoa -->\n<!-- end -->", "there is no table 'Cocoa'"),
    ],
)
def test_pages_without_a_place_are_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        zoo.rendered(text)
