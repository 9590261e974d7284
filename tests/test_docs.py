"""What the pages on systems and on reliability show works as it stands there."""

import re
from pathlib import Path

import pytest
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config

import odconv_det.layers

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
