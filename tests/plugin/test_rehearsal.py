"""What is compared before a run starts, on configs of others; bad ones have a table."""

import os
from pathlib import Path
from types import SimpleNamespace

import mmdet
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from odconv_det.plugin import rehearsal
from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.rehearsal import _trained, leaves, rehearse
from odconv_det.plugin.sizes import warn_of_other_scales
from tests.bad_inputs.spoil import TRAINING, edited
from tests.tiny_detector import write_tiny_detector

CONFIGS = Path(__file__).parents[2] / "configs"
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
def test_a_config_of_mmdetection_passes(config, monkeypatch, capsys):
    monkeypatch.setattr(rehearsal, "_check_files", photos)
    rehearse(Config.fromfile(f"{MMDET}/{config}"), "train", "val")
    assert "warning" not in capsys.readouterr().out


def photos(dataset, classes, evaluators, files) -> None:
    """In place of an annotation file that is not there."""
    files[dataset.ann_file] = SimpleNamespace(images=[dict(width=640, height=480)])


@pytest.mark.parametrize(
    "path",
    [
        *sorted(CONFIGS.glob("[!_]*/*.py")),
        f"{MMDET}/cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py",
        f"{MMDET}/efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py",
        f"{MMDET}/faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco.py",
        f"{MMDET}/mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
        f"{MMDET}/rtmdet/rtmdet_s_8xb32-300e_coco.py",
        f"{MMDET}/soft_teacher/"
        "soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
        f"{MMDET}/ssd/ssd300_coco.py",
        f"{MMDET}/yolo/yolov3_d53_8xb8-ms-416-273e_coco.py",
        f"{MMDET}/yolox/yolox_s_8xb8-300e_coco.py",
    ],
    ids=lambda path: Path(path).stem,
)
def test_no_config_tests_in_another_size_than_it_trains(path, capsys):
    init_default_scope("mmdet")
    cfg = Config.fromfile(path, import_custom_modules=False)
    # Of these scenes alone the training knows that they have the size of the test.
    size = (192, 192) if "fashion" in str(path) else (640, 480)
    images = [dict(zip(("width", "height"), size, strict=True))]
    for part in leaves(cfg.val_dataloader.dataset):
        warn_of_other_scales(_trained(cfg), part.pipeline, images, "val_dataloader")
    assert "warning" not in capsys.readouterr().out


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


def test_a_test_in_another_size_than_the_training_is_said(tiny, capsys):
    rehearse(tiny, "train", "val", "test")
    assert "warning" not in capsys.readouterr().out
    resize = tiny.test_dataloader.dataset.pipeline[2]
    resize.scale = (32, 32)
    rehearse(tiny, "train", "val")
    assert "warning" not in capsys.readouterr().out
    rehearse(tiny, "test")
    said = capsys.readouterr().out
    assert "an image of 64x64 is tested as 32x32" in said
    assert "train_dataloader and test_dataloader.dataset the same Resize" in said


def test_what_wrappers_and_models_make_of_a_batch_is_part_of_the_training(tiny, capsys):
    tiny.test_dataloader.dataset.pipeline[2].scale = (32, 32)
    inner = tiny.train_dataloader.dataset
    mosaic = [dict(type="Mosaic", img_scale=(32, 32))]
    tiny.train_dataloader.dataset = dict(
        type="MultiImageMixDataset", dataset=inner, pipeline=mosaic
    )
    rehearse(tiny, "test")
    tiny.train_dataloader.dataset = inner
    tiny.model.data_preprocessor.batch_augments = [
        dict(type="BatchSyncRandomResize", random_size_range=(32, 64))
    ]
    rehearse(tiny, "test")
    assert "warning" not in capsys.readouterr().out


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
