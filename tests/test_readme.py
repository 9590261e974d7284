"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config

from tests.configs.test_configs import BACKBONE, LEAVES, NECK_AND_HEADS, parts

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CONFIGS = [block for block in BLOCKS if "_base_" in block]
SCRIPTS = [block for block in BLOCKS if "_base_" not in block]


def test_there_are_scripts_and_configs_to_check():
    assert (len(SCRIPTS), len(CONFIGS)) == (3, 1)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script):
    names = {}
    exec(script, names)
    if "y" in names:
        assert names["y"].shape == (2, 128, 56, 56)
    if "names" in names:
        assert names["names"] == ["0"]
        assert names["net"][0].kernel_num == 4


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_builds(config, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(config.replace('"configs/', f'"{ROOT}/configs/'))
    cfg = Config.fromfile(path)
    detector = MODELS.build(cfg.model)
    assert type(detector.backbone).__name__ == "ODResNet"


def test_every_file_it_names_is_there():
    named = re.findall(r"`?((?:configs|tools)/[\w./-]+\.(?:py|sh))", README)
    assert len(named) > 5
    missing = [name for name in named if not (ROOT / name).is_file()]
    assert missing == []


def test_its_table_gives_the_parameters_of_every_odconv_config():
    rows = re.findall(r"^\| `([\w-]+)\.py` \| ([\d,]+) \|", README, re.MULTILINE)
    shown = {name: int(count.replace(",", "")) for name, count in rows}
    leaves = [Path(name).name for name in LEAVES if name.startswith("odconv/")]
    assert shown == {
        name: BACKBONE[backbone] + NECK_AND_HEADS[detector, backbone.split("-")[0]]
        for name in leaves
        for detector, backbone in [parts(name)]
    }
