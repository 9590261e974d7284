"""The authors' names arrive under ours, every one of them."""

import json
from pathlib import Path

import pytest
import torch

from odconv_det.checkpoints import backbone_tensors, from_release

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(GOLDEN.glob("*.keys.json"))


def shapes(path):
    keys = json.loads(path.read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in keys.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name.split(".")[0])
def test_drops_prefix_and_classifier_and_nothing_else(path):
    release = shapes(path)
    ours = from_release(release)
    assert len(ours) == len(release) - 2  # weight and bias of the classifier
    assert not any(k.startswith(("module.", "features.", "fc.")) for k in ours)
    assert [t.shape for t in ours.values()] == [
        t.shape
        for key, t in release.items()
        if ".fc." not in key.replace("attention.fc", "") and "classifier" not in key
    ]


@pytest.mark.parametrize(
    "release, ours",
    [
        ("features.0.0.weight", "conv1.conv.weight"),
        ("features.0.1.bias", "conv1.bn.bias"),
        ("features.1.conv.0.0.weight", "layer1.0.depthwise_conv.conv.weight"),
        ("features.1.conv.1.weight", "layer1.0.linear_conv.conv.weight"),
        ("features.1.conv.2.bias", "layer1.0.linear_conv.bn.bias"),
        ("features.2.conv.0.1.weight", "layer2.0.expand_conv.bn.weight"),
        ("features.3.conv.1.0.weight", "layer2.1.depthwise_conv.conv.weight"),
        ("features.6.conv.2.weight", "layer3.2.linear_conv.conv.weight"),
        ("features.13.conv.3.running_mean", "layer5.2.linear_conv.bn.running_mean"),
        ("features.17.conv.2.weight", "layer7.0.linear_conv.conv.weight"),
        ("features.18.0.attention.fc.weight", "conv2.conv.attention.fc.weight"),
        ("module.layer1.0.conv1.weight", "layer1.0.conv1.weight"),
    ],
)
def test_renames_for_mmdetection(release, ours):
    assert list(from_release({release: torch.zeros(1)})) == [ours]


@pytest.mark.parametrize(
    "flat, ours",
    [
        ("features.0.0.weight", "conv1.conv.weight"),
        ("features.1.conv.0.weight", "layer1.0.depthwise_conv.conv.weight"),
        ("features.1.conv.4.bias", "layer1.0.linear_conv.bn.bias"),
        ("features.2.conv.1.bias", "layer2.0.expand_conv.bn.bias"),
        ("features.2.conv.3.weight", "layer2.0.depthwise_conv.conv.weight"),
        ("features.17.conv.7.running_var", "layer7.0.linear_conv.bn.running_var"),
    ],
)
def test_knows_blocks_that_are_one_flat_sequence(flat, ours):
    # The seventh place of a block exists in no other layout.
    only_there = "features.9.conv.6.weight"
    renamed = from_release({flat: torch.zeros(1), only_there: torch.zeros(2)})
    assert list(renamed) == [ours, "layer4.2.linear_conv.conv.weight"]


def test_a_detector_keeps_its_backbone_prefix():
    release = {
        "backbone.features.0.0.weight": torch.zeros(1),
        "backbone.classifier.1.bias": torch.zeros(1),
        "neck.lateral_convs.0.conv.weight": torch.zeros(1),
        "roi_head.bbox_head.fc_cls.weight": torch.zeros(1),
    }
    ours = from_release(release)
    assert list(ours) == [
        "backbone.conv1.conv.weight",
        "neck.lateral_convs.0.conv.weight",
        "roi_head.bbox_head.fc_cls.weight",
    ]
    assert list(backbone_tensors(ours)) == ["conv1.conv.weight"]


def test_our_own_names_pass_as_they_are():
    ours = {"layer1.0.conv1.weight": torch.zeros(1), "conv2.bn.bias": torch.zeros(1)}
    assert from_release(ours) == ours
    assert backbone_tensors(ours) == ours
