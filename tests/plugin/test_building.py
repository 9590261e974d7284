"""A config is built, or the line says which part of it is wrong."""

import os

import mmdet
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS

from odconv_det.plugin.building import build_on_meta, config_errors, suggestion
from odconv_det.plugin.errors import ToolError

MMDET = os.path.join(os.path.dirname(mmdet.__file__), ".mim", "configs")


def test_says_why_a_config_builds_no_model():
    with pytest.raises(ToolError, match="no model"):
        build_on_meta(Config(dict()))
    with pytest.raises(ToolError, match="there is no NoSuchDetector"):
        build_on_meta(Config(dict(model=dict(type="NoSuchDetector"))))


def test_builds_without_values_and_leaves_the_config_alone():
    cfg = Config.fromfile(f"{MMDET}/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    before = cfg.model.to_dict()
    network = build_on_meta(cfg)
    assert all(p.is_meta for p in network.parameters())
    assert cfg.model.to_dict() == before


def test_builds_what_needs_values_to_be_built():
    file = f"{MMDET}/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py"
    network = build_on_meta(Config.fromfile(file))
    assert sum(p.numel() for p in network.parameters()) > 40_000_000


def test_the_place_is_that_of_the_innermost_part_of_the_config():
    loader = dict(dataset=dict(type="CocoDataset", pipeline=[dict(type="Resize")]))
    cfg = Config(dict(train_dataloader=loader))
    with pytest.raises(ToolError) as error, config_errors(cfg):
        DATASETS.build(dict(cfg.train_dataloader.dataset, _scope_="mmdet"))
    assert str(error.value).startswith("train_dataloader.dataset.pipeline.0 (Resize): ")


def test_an_error_that_is_not_of_building_is_left_alone():
    with pytest.raises(ZeroDivisionError), config_errors(Config(dict())):
        raise ZeroDivisionError


def test_an_assertion_without_words_shows_itself():
    @HOOKS.register_module(force=True)
    class Wordless:
        def __init__(self, number: int) -> None:
            assert number > 3

    cfg = Config(dict(custom_hooks=[dict(type="Wordless", number=1)]))
    with pytest.raises(ToolError) as error, config_errors(cfg):
        HOOKS.build(cfg.custom_hooks[0])
    said = str(error.value)
    assert said.startswith("custom_hooks.0 (Wordless): AssertionError: assert ")


def test_a_word_is_suggested_whatever_its_case_and_only_if_it_is_like():
    assert suggestion("odresnet", ["ODResNet"]) == "; did you mean ODResNet?"
    assert suggestion("x", ["ODResNet"]) == ""
