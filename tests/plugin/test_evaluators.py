"""Evaluators that fit their run; bad ones have a table."""

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.evaluators import check_masks, check_save_best


@pytest.mark.parametrize(
    ("with_mask", "pipelines"),
    [(True, [[{}]]), (False, []), (False, [[{}, dict(with_mask=True)]])],
    ids=["mask head", "training unknown", "learns masks"],
)
def test_masks_are_evaluated_where_they_may_be_predicted(with_mask, pipelines):
    detector = nn.Module()
    detector.with_mask = with_mask
    check_masks(detector, dict(metric=["bbox", "segm"]), pipelines, "val")


def test_masks_that_nobody_learns_are_not_evaluated():
    detector = nn.Module()
    detector.with_mask = False
    check_masks(detector, dict(metric="bbox"), [[{}]], "val")
    with pytest.raises(ToolError, match="learns no masks"):
        check_masks(detector, dict(metric="segm"), [[{}]], "val")


def config(name: object, **evaluator) -> Config:
    """Whose best checkpoint is that of this number."""
    hooks = dict(checkpoint=dict(save_best=name))
    return Config(
        dict(default_hooks=hooks, val_evaluator=dict(type="CocoMetric") | evaluator)
    )


@pytest.mark.parametrize(
    ("name", "evaluator"),
    [
        ("auto", {}),
        (None, {}),
        (["coco/bbox_mAP_50", "coco/bbox_mAP"], {}),
        ("coco/segm_mAP", dict(metric=["bbox", "segm"])),
        ("mine/bbox_mAP", dict(prefix="mine")),
        ("coco/cat_precision", dict(classwise=True)),
        ("coco/AR@100", dict(metric="proposal")),
        ("pascal_voc/mAP", dict(type="VOCMetric")),
    ],
)
def test_a_number_that_may_be_given_passes(name, evaluator):
    init_default_scope("mmdet")
    check_save_best(config(name, **evaluator))


def test_a_number_that_is_not_given_is_refused():
    init_default_scope("mmdet")
    with pytest.raises(ToolError, match="'coco/segm_mAP', which val_evaluator does"):
        check_save_best(config("coco/segm_mAP"))
