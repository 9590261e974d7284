"""What is compared before a run starts, on configs of others; bad ones have a table."""

import os

import mmdet
import pytest
from mmengine.config import Config
from PIL import Image

from odconv_det.plugin import rehearsal
from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.rehearsal import rehearse
from tests.bad_inputs.spoil import TRAINING, edited
from tests.tiny_detector import write_tiny_detector

MMDET = os.path.join(os.path.dirname(mmdet.__file__), ".mim", "configs")


@pytest.mark.parametrize(
    "config",
    [
        "rpn/rpn_r50_fpn_1x_coco.py",  # one class, of objects
        "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        "yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",  # a neck from deep to shallow
        "detr/detr_r50_8xb2-150e_coco.py",  # no FPN
        "detectors/detectors_cascade-rcnn_r50_1x_coco.py",  # an FPN of other maps
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


def test_tracks_are_of_other_classes_than_the_heads():
    name = "sort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py"
    cfg = Config.fromfile(f"{MMDET}/sort/{name}")
    cfg.model = cfg.model.detector  # whose tracker needs another package
    rehearse(cfg, "test")


def test_the_neck_of_mmdetections_own_backbone_is_checked():
    cfg = Config.fromfile(f"{MMDET}/retinanet/retinanet_r50_fpn_1x_coco.py")
    cfg.model.neck.in_channels = [256, 512, 1024, 1024]
    with pytest.raises(ToolError, match=r"write neck=dict\(in_channels=\[256, 512"):
        rehearse(cfg)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Config:
    """A config with its data, which are right."""
    monkeypatch.chdir(tmp_path)
    return Config.fromfile(write_tiny_detector(tmp_path))


@pytest.mark.parametrize("changes", [{}, dict(test_mode=True)])
def test_every_loader_reads_images_in_the_size_of_their_boxes(tiny, changes):
    name = tiny.train_dataloader.dataset.data_prefix.img + "000000000002.png"
    Image.new("RGB", (64, 32)).save(f"data/coco/{name}")
    tiny.train_dataloader.dataset.update(changes)
    with pytest.raises(ToolError, match="2.png is read as 64x32, but has 64x64"):
        rehearse(tiny, "train")


@pytest.fixture
def lost_image(tiny, tmp_path) -> Config:
    """A config whose last training image is not there and has no boxes."""
    edited(
        TRAINING,
        lambda content: content.update(
            annotations=[a for a in content["annotations"] if a["image_id"] != 4]
        ),
    )(tmp_path)
    next(tmp_path.glob("data/coco/train2017/*4.png")).unlink()
    return tiny


def test_an_image_that_will_be_read_must_be_there(lost_image):
    with pytest.raises(ToolError, match="1 of the 4 images"):
        rehearse(lost_image, "train")


@pytest.mark.parametrize(
    "changes",
    [
        dict(filter_cfg=dict(filter_empty_gt=True)),
        dict(indices=2),
        dict(data_prefix=dict(img="http://localhost/")),
    ],
)
def test_images_that_are_not_read_from_the_folder_may_be_lost(lost_image, changes):
    lost_image.train_dataloader.dataset.update(changes)
    rehearse(lost_image, "train")


def test_a_filter_must_leave_images(lost_image):
    lost_image.train_dataloader.dataset.filter_cfg = dict(min_size=65)
    with pytest.raises(ToolError, match="leaves none of the 4 images"):
        rehearse(lost_image, "train")
