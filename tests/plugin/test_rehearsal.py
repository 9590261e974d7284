"""What is compared before a run starts, on configs of others; bad ones have a table."""

import os

import mmdet
import pytest
from mmengine.config import Config

from odconv_det.plugin import rehearsal
from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.rehearsal import rehearse

MMDET = os.path.join(os.path.dirname(mmdet.__file__), ".mim", "configs")


@pytest.mark.parametrize(
    "config",
    [
        "rpn/rpn_r50_fpn_1x_coco.py",  # one class, of objects
        "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        "yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",  # a neck from deep to shallow
        "detr/detr_r50_8xb2-150e_coco.py",  # no FPN
        "seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py",
    ],
)
def test_a_config_of_mmdetection_passes(config, monkeypatch):
    monkeypatch.setattr(rehearsal, "_check_files", lambda *facts: None)
    rehearse(Config.fromfile(f"{MMDET}/{config}"), "train", "val")


def test_data_sets_inside_wrappers_are_checked(monkeypatch):
    seen = []
    monkeypatch.setattr(
        rehearsal, "_check_files", lambda dataset, *facts: seen.append(dataset.ann_file)
    )
    cfg = Config.fromfile(f"{MMDET}/retinanet/retinanet_r50_fpn_1x_coco.py")
    first = cfg.train_dataloader.dataset
    second = dict(first, ann_file="second.json")
    both = dict(type="ConcatDataset", datasets=[first, second])
    cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=both)
    rehearse(cfg, "train")
    assert [os.path.basename(path) for path in seen] == [
        "instances_train2017.json",
        "second.json",
    ]


def test_a_layer_that_waits_for_the_process_group_is_built_by_the_run():
    cfg = Config.fromfile(f"{MMDET}/retinanet/retinanet_r50_fpn_1x_coco.py")
    cfg.model.neck.norm_cfg = dict(type="MMSyncBN")
    with pytest.raises(ToolError, match="process group"):
        rehearse(cfg)
    cfg.launcher = "pytorch"
    rehearse(cfg)
