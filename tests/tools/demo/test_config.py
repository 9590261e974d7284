from copy import deepcopy

import pytest
from demo import hela, run
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tests.tools.demo.tiny_film import film, tiff


@pytest.fixture(scope="module")
def cfg():
    return Config.fromfile(run.ROOT / run.CONFIG)


def test_the_detector_has_its_parameters(cfg):
    model = deepcopy(cfg.model)
    model.backbone.init_cfg = None
    detector = MODELS.build(model)
    backbone = sum(p.numel() for p in detector.backbone.parameters())
    assert backbone == 10_231_149
    # 20,271,856 with COCO's 80 classes; a class has 1024 + 1 values in the classifier,
    # 4 * (1024 + 1) in the box regressor and 256 + 1 in the mask head.
    rest = sum(p.numel() for p in detector.parameters()) - backbone
    assert rest == 20_271_856 - 79 * (5 * 1025 + 257)


def test_the_paths_are_where_the_demo_puts_things(cfg):
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == f"{run.TILES}/"
    assert cfg.test_evaluator.ann_file == f"{run.TILES}/annotations/val.json"
    assert cfg.test_dataloader.dataset.ann_file == "annotations/val.json"


def test_tiles_are_seen_at_their_own_size(cfg):
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        (resize,) = [step for step in loader.dataset.pipeline if step.type == "Resize"]
        assert resize.scale == (hela.Recipe().tile, hela.Recipe().tile)


def test_resizing_leaves_the_tiles_of_the_training_as_they_are(cfg, tmp_path):
    frames, labels = film(1, height=675, width=1075, nuclei=150, radius=12)
    hela.convert(tiff(frames), tiff(labels), tmp_path / "hela")
    init_default_scope("mmdet")

    def tiles(*left_out: str) -> list:
        part = deepcopy(cfg.train_dataloader.dataset)
        part.update(data_root=f"{tmp_path}/hela/")
        part.pipeline = [step for step in part.pipeline if step.type not in left_out]
        return list(DATASETS.build(part))

    pairs = zip(tiles("RandomFlip"), tiles("RandomFlip", "Resize"), strict=True)
    for resized, plain in pairs:
        assert resized["inputs"].equal(plain["inputs"])
        one, other = (item["data_samples"].gt_instances for item in (resized, plain))
        assert one.bboxes.tensor.equal(other.bboxes.tensor)
        assert one.labels.equal(other.labels)
        assert (one.masks.masks == other.masks.masks).all()


def test_interruptions_cost_at_most_30_iterations_and_a_nan_stops(cfg):
    assert cfg.default_hooks.checkpoint.interval <= 30
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 3
    assert cfg.default_hooks.checkpoint.type == "SafeCheckpointHook"
    assert "CheckInvalidLossHook" in [hook.type for hook in cfg.custom_hooks]


def test_it_has_the_hooks_that_every_config_here_has(cfg):
    runtime = Config.fromfile(run.ROOT / "configs" / "_base_" / "default_runtime.py")
    assert cfg.custom_hooks == runtime.custom_hooks


def test_the_demo_demands_the_ap_it_promises():
    assert run.TARGETS == {"coco/bbox_mAP": 0.60, "coco/segm_mAP": 0.70}
