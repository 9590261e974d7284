import dataclasses
import json
from copy import deepcopy
from pathlib import Path

import pytest
from comparison import garments, recipe
from comparison.backbones import BACKBONES, STATIC
from comparison.dataset import Scenes
from comparison.scenes import Layout
from mmdet.registry import MODELS
from mmengine.config import Config

SMALL = recipe.Recipe(
    iterations=7, batch=3, scenes=Scenes(train=5, test=4, layout=Layout(size=96))
)


def without_backbone(cfg):
    content = cfg.to_dict()
    content["model"].pop("backbone")
    return content


@pytest.mark.parametrize("name", BACKBONES)
def test_configs_differ_in_the_backbone_alone(name):
    static = recipe.config(SMALL, STATIC, 1, Path("x"))
    cfg = recipe.config(SMALL, name, 1, Path("x"))
    assert without_backbone(cfg) == without_backbone(static)
    expected = {**static.model.backbone, **BACKBONES[name].settings}
    assert cfg.model.backbone.to_dict() == expected


def test_the_recipe_is_in_the_config():
    cfg = recipe.config(SMALL, STATIC, 5, Path("x"))
    assert cfg.randomness == dict(seed=5)
    assert cfg.train_dataloader.batch_size == 3
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (7, 7)
    assert cfg.param_scheduler[-1].end == 7
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == "x/"
    assert cfg.val_evaluator.ann_file == "x/annotations/test.json"
    (resize,) = [s for s in cfg.val_dataloader.dataset.pipeline if s.type == "Resize"]
    assert resize.scale == (96, 96)


def test_the_config_alone_is_the_default_recipe():
    alone = Config.fromfile(recipe.CONFIG)
    default = recipe.Recipe()
    scenes = default.scenes
    name = f"{scenes.layout.size}px_{scenes.train}_{scenes.test}"
    folder = Path("data/fashion-scenes") / name
    assert recipe.config(default, STATIC, 0, folder).to_dict() == alone.to_dict()


def test_the_detector_names_the_classes_of_the_scenes():
    cfg = recipe.config(SMALL, STATIC, 0, Path("x"))
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        assert tuple(loader.dataset.metainfo.classes) == garments.CLASSES
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 10


# Of the tables' networks, less their classifiers.
PARAMETERS = {
    "static": 2_223_872,
    "dyconv4x": 11_123_540,
    "dcd": 4_259_188,
    "condconv8x": 12_627_248,
    "odconv1x": 3_659_185,
    "odconv4x": 10_231_149,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_have_their_parameters(name):
    model = deepcopy(recipe.config(SMALL, name, 0, Path("x")).model.backbone)
    backbone = MODELS.build(model)
    assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]


def test_a_recipe_survives_json():
    content = json.loads(json.dumps(dataclasses.asdict(SMALL)))
    assert recipe.Recipe.from_json(content) == SMALL


@pytest.mark.parametrize("change", [dict(iterations=8), dict(batch=4)])
def test_another_recipe_is_another_identity(change):
    other = dataclasses.replace(SMALL, **change)
    assert recipe.identity(other, STATIC) != recipe.identity(SMALL, STATIC)


def test_another_backbone_or_config_is_another_identity(tmp_path, monkeypatch):
    before = recipe.identity(SMALL, STATIC)
    assert recipe.identity(SMALL, "odconv1x") != before
    changed = tmp_path / "changed.py"
    changed.write_text(
        f"_base_ = {str(recipe.CONFIG)!r}\noptim_wrapper = dict(optimizer=dict(lr=1.0))"
    )
    monkeypatch.setattr(recipe, "CONFIG", changed)
    assert recipe.identity(SMALL, STATIC) != before


@pytest.mark.parametrize("change", [dict(iterations=1), dict(batch=0)])
def test_a_recipe_that_trains_nothing_is_an_error(change):
    with pytest.raises(ValueError, match="train nothing"):
        recipe.Recipe(**change)
