"""Flags, configs and runners of the tools."""

from argparse import Namespace

import pytest
from mmengine.config import Config

from odconv_det.plugin import cli
from odconv_det.plugin.errors import ToolError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")


def arguments(**changes) -> Namespace:
    flags = dict(work_dir=None, cfg_options=None, launcher="none", local_rank=0)
    return Namespace(**(flags | changes))


def test_missing_config_or_base_is_an_error(tmp_path):
    with pytest.raises(ToolError, match=r"no config file gone\.py"):
        cli.load_config(arguments(config="gone.py"))
    (tmp_path / "leaf.py").write_text('_base_ = "./gone.py"\n')
    with pytest.raises(ToolError, match=r"leaf\.py.*gone\.py"):
        cli.load_config(arguments(config="leaf.py"))


def test_work_dir_comes_from_the_flag_then_the_config_then_its_name(tmp_path):
    (tmp_path / "named.py").write_text('work_dir = "there"\n')
    (tmp_path / "plain.py").write_text("seed = 0\n")

    def work_dir(config, **changes):
        return cli.load_config(arguments(config=config, **changes)).work_dir

    assert work_dir("named.py", work_dir="here") == "here"
    assert work_dir("named.py") == "there"
    assert work_dir("plain.py") == "work_dirs/plain"


def test_options_of_the_command_line_override_the_config(tmp_path):
    (tmp_path / "plain.py").write_text("train_cfg = dict(max_epochs=12, seed=0)\n")
    options = {"train_cfg.max_epochs": 1}
    cfg = cli.load_config(arguments(config="plain.py", cfg_options=options))
    assert cfg.train_cfg == dict(max_epochs=1, seed=0)


@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_launchers_of_gpu_clusters_say_that_they_need_gpus(launcher, monkeypatch):
    monkeypatch.setattr(cli, "get_device", lambda: "cpu")
    with pytest.raises(ToolError, match=r"needs GPUs.*dist_train"):
        cli.build_runner(Config(dict(launcher=launcher)))


@pytest.mark.parametrize(
    "content", ["model = dict(\n", "model = nothing_of_that_name\n"]
)
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, content):
    (tmp_path / "bad.py").write_text(content)
    with pytest.raises(ToolError, match=r"bad\.py cannot be read"):
        cli.load_config(arguments(config="bad.py"))
