"""What the pages on systems, reliability and own data show works as it stands there."""

import json
import re
from pathlib import Path

import pytest
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config

import odconv_det.layers
from tests.tiny_coco import FEW_ROIS, as_cfg_options, write_tiny_coco

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "systems.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_there_are_blocks_to_check():
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(block):
    names = {}
    exec(block, names)
    for part in ("backbone", "neck"):
        if part in names:
            dynamic = [
                m
                for m in MODELS.build(names[part]).modules()
                if isinstance(m, odconv_det.layers.DynamicConv2d)
            ]
            assert len(dynamic) == {"backbone": 9, "neck": 4}[part]
    if "net" in names:
        block = names["net"].layer1[0]
        assert isinstance(block[0], odconv_det.layers.DyConv2d)
        assert isinstance(block[1].attention, odconv_det.layers.SE)


def test_every_layer_is_on_the_page():
    layers = odconv_det.layers
    for layer in (*layers.DYNAMIC_CONVOLUTIONS, *layers.FEATURE_ATTENTIONS):
        assert f"`{layer.__name__}`" in PAGE


def test_every_file_it_names_is_there():
    named = re.findall(r"((?:configs|tools)/[\w./-]+\.py)", PAGE)
    assert len(named) >= 2
    assert [name for name in named if not (ROOT / name).is_file()] == []
    links = re.findall(r"\]\((\w[\w.-]+\.md)\)", PAGE)
    assert [name for name in links if not (ROOT / "docs" / name).is_file()] == []


def test_the_hooks_that_lose_nothing_save_every_epoch(tmp_path):
    page = (ROOT / "docs" / "reliability.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "config.py").write_text(block)
    cfg = Config.fromfile(tmp_path / "config.py")
    assert HOOKS.build(cfg.default_hooks.checkpoint).interval == 1
    kinds = [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks]
    assert kinds == ["EpochSeedHook", "BatchSizeHook"]


class TestOwnData:
    @pytest.fixture
    def folder(self, tmp_path):
        """A clone, in which somebody follows the page."""
        page = (ROOT / "docs" / "own-data.md").read_text()
        (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        (tmp_path / "pets.py").write_text(block)
        return tmp_path

    def test_the_detector_and_the_sizes_fit_the_data(self, folder):
        cfg = Config.fromfile(folder / "pets.py")
        detector = MODELS.build(dict(cfg.model))
        heads = (detector.roi_head.bbox_head, detector.roi_head.mask_head)
        assert [head.num_classes for head in heads] == [2, 2]
        loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
        sizes = {
            step.scale
            for loader in loaders
            for step in loader.dataset.pipeline
            if step.type == "Resize"
        }
        assert sizes == {(640, 640)}
        assert {loader.dataset.metainfo.classes for loader in loaders} == {
            ("cat", "dog")
        }
        assert cfg.test_evaluator.ann_file == "data/pets/val.json"

    def test_its_weights_have_a_hash(self, folder):
        cfg = Config.fromfile(folder / "pets.py")
        init = cfg.model.backbone.init_cfg
        assert init.type == "Pretrained"
        assert init.inflate is True
        assert re.search("#sha256=[0-9a-f]{64}$", init.checkpoint)

    def test_it_trains(self, folder, forge):
        root = write_tiny_coco(folder / "coco")
        pets = folder / "data" / "pets"
        pets.mkdir(parents=True)
        (pets / "images").symlink_to(root / "train2017")
        text = (root / "annotations" / "instances_train2017.json").read_text()
        content = json.loads(text)
        content["categories"] = [dict(id=1, name="cat"), dict(id=2, name="dog")]
        for split in ("train", "val"):
            (pets / f"{split}.json").write_text(json.dumps(content))
        settings = {
            **FEW_ROIS,
            "model.backbone.widen_factor": 0.25,
            "model.backbone.init_cfg": None,
            "model.neck.in_channels": [8, 8, 24, 1280],
            "epochs": 1,
            "train_cfg.max_epochs": 1,
            "train_cfg.val_interval": 1,
            "train_dataloader.dataset.pipeline.2.scale": (96, 96),
            "val_dataloader.dataset.pipeline.1.scale": (96, 96),
        }
        words = ("pets.py", "--cfg-options", *as_cfg_options(settings))
        status, output = forge.run(folder, ROOT / "tools" / "train.py", *words)
        assert status == 0, output[-3000:]
        assert "coco/segm_mAP" in output
        assert (folder / "work_dirs" / "pets" / "epoch_1.pth").is_file()
