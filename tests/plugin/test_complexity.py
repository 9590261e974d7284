"""Detectors are counted whole, or not at all."""

import os

import mmdet
import pytest
from mmengine.config import Config

from odconv_det.plugin.building import build_on_meta
from odconv_det.plugin.complexity import UncountableError, count_detector

MMDET = os.path.join(os.path.dirname(mmdet.__file__), ".mim", "configs")
SIZE = (128, 160)
BOX_HEAD = 256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 4 * 80)
# Four 3x3 convolutions on 14x14, the transposed one, and the classifier on 28x28.
MASK_HEAD = (4 * 9 * 256 * 256 + 4 * 256 * 256) * 14 * 14 + 28 * 28 * 256 * 80


def detector(config, **options):
    cfg = Config.fromfile(os.path.join(MMDET, config))
    cfg.merge_from_dict(options)
    return build_on_meta(cfg)


def test_two_stage_detectors_run_on_the_stated_regions():
    network = detector("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    counted = count_detector(network, SIZE, boxes=30, masks=7)
    parts = ["backbone", "neck", "rpn_head", "roi_head"]
    assert list(counted.children()) == parts
    assert counted.part("roi_head.bbox_head").multiply_adds == 30 * BOX_HEAD
    assert counted.part("roi_head.mask_head").multiply_adds == 7 * MASK_HEAD
    total = sum(p.numel() for p in network.parameters())
    assert counted.total.parameters == total
    # MMDetection freezes the stem and the first stage.
    frozen = counted.total.parameters - counted.total.trainable
    assert frozen == 225_344


def test_the_pyramid_and_the_proposals_run_on_every_level():
    network = detector("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    counted = count_detector(network, SIZE)
    pixels = [32 * 40, 16 * 20, 8 * 10, 4 * 5, 2 * 3]
    proposals = 9 * 256 * 256 + 256 * (3 + 12)
    assert counted.part("rpn_head").multiply_adds == sum(pixels) * proposals
    widths = (256, 512, 1024, 2048)
    pyramid = sum(
        n * 256 * (width + 9 * 256) for n, width in zip(pixels, widths, strict=False)
    )
    assert counted.part("neck").multiply_adds == pyramid


def test_a_cascade_runs_every_stage():
    network = detector("cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py")
    counted = count_detector(network, SIZE, boxes=30, masks=7)
    box_head = BOX_HEAD - 1024 * 4 * 79  # boxes do not depend on the class
    stages = counted.children("roi_head.bbox_head")
    assert [s.multiply_adds for s in stages.values()] == 3 * [30 * box_head]
    stages = counted.children("roi_head.mask_head")
    assert [s.multiply_adds for s in stages.values()] == 3 * [7 * MASK_HEAD]


def test_a_head_on_the_last_stage_of_the_backbone():
    network = detector("faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py")
    counted = count_detector(network, SIZE, boxes=10)
    doubled = count_detector(network, SIZE, boxes=20)
    head = counted.part("roi_head.shared_head").multiply_adds
    assert doubled.part("roi_head.shared_head").multiply_adds == 2 * head > 0


@pytest.mark.parametrize(
    "config",
    ["retinanet/retinanet_r50_fpn_1x_coco.py", "rpn/rpn_r50_fpn_1x_coco.py"],
)
def test_single_stage_detectors_run_their_head(config):
    network = detector(config)
    counted = count_detector(network, SIZE)
    assert list(counted.children()) == ["backbone", "neck", "bbox_head"]
    assert counted.part("bbox_head").multiply_adds > 0
    more = count_detector(network, SIZE, boxes=1, masks=1)
    assert more == counted


@pytest.mark.parametrize(
    "config, reason",
    [
        (
            "detr/detr_r50_8xb2-150e_coco.py",
            "left out: encoder.layers.0.self_attn.attn",
        ),
        ("ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py", "roi_head.mask_iou_head.convs.0"),
        ("dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py", "meta device"),
        ("double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py", "x_reg"),
    ],
)
def test_what_would_be_counted_in_part_is_refused(config, reason):
    network = detector(config)
    with pytest.raises(UncountableError, match="cannot be counted") as caught:
        count_detector(network, SIZE)
    assert reason in str(caught.value)
