"""Every config: it parses, builds, has its exact size, trains and predicts."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from odconv_det import ODConv2d
from tests.tiny_coco import FEW_ROIS

CONFIGS = Path(__file__).parents[2] / "configs"
FOLDERS = ("baseline", "condconv", "dcd", "dyconv", "odconv")
LEAVES = {
    str(path.relative_to(CONFIGS).with_suffix("")): path
    for folder in FOLDERS
    for path in sorted((CONFIGS / folder).glob("*.py"))
}
EXAMPLES = sorted((CONFIGS / "examples").glob("*.py"))

BACKBONE = {
    "mobilenetv2": 2_223_872,
    "mobilenetv2-condconv8x": 12_627_248,
    "mobilenetv2-dcd": 4_259_188,
    "mobilenetv2-dyconv4x": 11_123_540,
    "mobilenetv2-odconv1x": 3_659_185,
    "mobilenetv2-odconv4x": 10_231_149,
    "r50": 23_508_032,
    "r50-condconv8x": 113_464_408,
    "r50-dcd": 27_557_064,
    "r50-dyconv4x": 98_829_072,
    "r50-odconv1x": 26_586_112,
    "r50-odconv4x": 88_621_888,
}
STATIC_WEIGHTS = {
    "mobilenetv2": "odconv://mobilenetv2_100",
    "r50": "odconv://resnet50",
}
NECK_AND_HEADS = {
    ("faster-rcnn", "mobilenetv2"): 17_628_576,
    ("faster-rcnn", "r50"): 18_245_024,
    ("mask-rcnn", "mobilenetv2"): 20_271_856,
    ("mask-rcnn", "r50"): 20_888_304,
}


@cache
def config(name: str) -> Config:
    """The parsed leaf, shared by the tests: not to be changed."""
    return Config.fromfile(LEAVES[name])


def parts(name: str) -> tuple[str, str]:
    """Detector and backbone in the name of a config."""
    detector, backbone, *rest = Path(name).name.split("_")
    assert rest == ["fpn", "1x", "coco"]
    return detector, backbone


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def batch(size: int = 64) -> dict:
    """Two random images with two objects each, as the data loader gives them."""
    samples = []
    for _ in range(2):
        boxes = torch.tensor([[4.0, 4.0, 28.0, 36.0], [20.0, 16.0, 60.0, 56.0]])
        masks = torch.zeros(2, size, size, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int(), strict=True):
            mask[top:bottom, left:right] = 1
        objects = InstanceData(
            bboxes=boxes,
            labels=torch.tensor([3, 79]),
            masks=BitmapMasks(masks.numpy(), size, size),
        )
        shape = (size, size)
        sample = DetDataSample(gt_instances=objects)
        sample.set_metainfo(
            dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
        )
        samples.append(sample)
    images = [torch.randint(256, (3, size, size), dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


@pytest.fixture(scope="module", params=LEAVES)
def built(request) -> tuple[str, Config, nn.Module]:
    """One leaf: its name, its config with few RoIs, its detector without weights."""
    torch.manual_seed(0)
    cfg = deepcopy(config(request.param))
    cfg.merge_from_dict({**FEW_ROIS, "model.backbone.init_cfg": None})
    init_default_scope("mmdet")
    model = MODELS.build(cfg.model)
    model.init_weights()
    return request.param, cfg, model


def test_the_configs_are_these_and_no_others():
    assert len(LEAVES) == 24
    assert set(LEAVES) == {
        f"{folder(backbone)}/{detector}_{backbone}_fpn_1x_coco"
        for detector in ("faster-rcnn", "mask-rcnn")
        for backbone in BACKBONE
    }


def folder(backbone: str) -> str:
    _, _, system = backbone.partition("-")
    return system.rstrip("0123456789x") or "baseline"


@pytest.mark.parametrize("name", LEAVES)
def test_parses_anywhere_and_survives_dumping(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(LEAVES[name])
    dumped = tmp_path / "dumped.py"
    cfg.dump(dumped)
    assert Config.fromfile(dumped).to_dict() == cfg.to_dict()


@pytest.mark.parametrize("name", LEAVES)
def test_recipe_is_that_of_the_release(name):
    cfg = config(name)
    detector, backbone = parts(name)
    optimizer = dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001)
    assert cfg.optim_wrapper.optimizer == optimizer
    assert "clip_grad" not in cfg.optim_wrapper
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.param_scheduler[1].milestones == [8, 11]
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_dataloader.dataset.data_root == "data/coco/"
    metric = "bbox" if detector == "faster-rcnn" else ["bbox", "segm"]
    assert cfg.val_evaluator.metric == metric
    assert cfg.model.backbone.norm_eval
    assert cfg.model.backbone.frozen_stages == (1 if "r50" in backbone else 2)


@pytest.mark.parametrize("name", LEAVES)
def test_runs_are_kept_safe(name):
    cfg = config(name)
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 3
    assert cfg.default_hooks.checkpoint.save_best == "auto"
    assert "CheckInvalidLossHook" in [hook.type for hook in cfg.custom_hooks]
    assert not cfg.get("find_unused_parameters", False)
    expected = dict(imports=["odconv_det"], allow_failed_imports=False)
    assert cfg.custom_imports == expected


@pytest.mark.parametrize("name", LEAVES)
def test_starts_from_the_imagenet_weights_of_its_backbone(name):
    _, backbone = parts(name)
    static, _, system = backbone.partition("-")
    expected = dict(type="Pretrained", checkpoint=STATIC_WEIGHTS[static])
    if system.startswith("odconv"):
        expected["checkpoint"] += f"_{system.removeprefix('odconv')}"
    elif system:
        expected["inflate"] = True
    assert config(name).model.backbone.init_cfg == expected


def test_parameters_are_counted_exactly(built):
    name, _, model = built
    detector, backbone = parts(name)
    assert count(model.backbone) == BACKBONE[backbone]
    rest = NECK_AND_HEADS[detector, backbone.split("-")[0]]
    assert count(model) - count(model.backbone) == rest


def test_training_step_reaches_every_parameter(built):
    name, cfg, model = built
    model.train()
    data = model.data_preprocessor(batch(), training=True)
    loss, log = model.parse_losses(model(**data, mode="loss"))
    assert ("loss_mask" in log) == name.split("/")[1].startswith("mask")
    assert torch.isfinite(loss)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    optimizer.backward(loss)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert any(name.startswith("backbone.") for name in trained)
    assert [name for name, p in trained.items() if p.grad is None] == []
    optimizer.step()
    optimizer.zero_grad()


def test_predicts_boxes_and_masks(built):
    name, cfg, model = built
    model.eval()
    with torch.no_grad():
        results = model.test_step(batch())
    assert len(results) == 2
    for result in results:
        found = result.pred_instances
        assert len(found) == cfg.model.test_cfg.rcnn.max_per_img
        assert torch.isfinite(found.bboxes).all()
        if "mask-rcnn" in name:
            assert found.masks.shape == (len(found), 64, 64)
        else:
            assert "masks" not in found


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda path: path.stem)
def example(request) -> tuple[str, Config, nn.Module]:
    torch.manual_seed(0)
    cfg = Config.fromfile(request.param)
    cfg.model.backbone.init_cfg = None
    cfg.model.backbone.base_channels = 16
    neck = cfg.model.neck.get("part", cfg.model.neck)
    neck.in_channels = [64, 128, 256, 512]
    init_default_scope("mmdet")
    model = MODELS.build(cfg.model)
    model.init_weights()
    return request.param.stem, cfg, model


def test_there_is_an_example_of_a_neck_a_one_stage_detector_and_a_cascade():
    assert [path.stem.split("_")[0] for path in EXAMPLES] == [
        "cascade-rcnn",
        "faster-rcnn",
        "retinanet",
    ]


def test_an_example_is_dynamic_where_it_says(example):
    name, _, model = example
    dynamic = [n for n, m in model.named_modules() if isinstance(m, ODConv2d)]
    if "fpn-odconv" in name:
        assert dynamic == [f"neck.fpn_convs.{i}.conv" for i in range(4)]
    elif name.startswith("retinanet"):
        assert len(dynamic) == 3 * (6 + 3)
        assert all(
            n.startswith(("backbone.layer3", "backbone.layer4")) for n in dynamic
        )
    else:
        assert len(dynamic) == 48


def test_an_example_takes_a_training_step(example):
    _, cfg, model = example
    model.train()
    data = model.data_preprocessor(batch(), training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    assert torch.isfinite(loss)
    build_optim_wrapper(model, cfg.optim_wrapper).backward(loss)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
