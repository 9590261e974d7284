"""Flags, configs and runners of the tools."""

import errno
import tempfile
from argparse import Namespace

import pytest
import torch
from mmengine.config import Config

from odconv_det.plugin import cli
from odconv_det.plugin.errors import ToolError, local_rank


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


@pytest.mark.parametrize(
    "launcher, variable",
    [
        ("pytorch", "LOCAL_RANK"),
        ("slurm", "SLURM_LOCALID"),
        ("mpi", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ],
)
def test_a_process_knows_its_number_whatever_started_it(
    tmp_path, monkeypatch, launcher, variable
):
    (tmp_path / "plain.py").write_text("seed = 0\n")
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv(variable, "3")
    cli.load_config(arguments(config="plain.py", launcher=launcher))
    assert local_rank() == 3


def test_a_launcher_may_pass_the_number_as_a_flag(tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text("seed = 0\n")
    monkeypatch.delenv("LOCAL_RANK")
    words = arguments(config="plain.py", launcher="pytorch", local_rank=2)
    cli.load_config(words)
    assert local_rank() == 2


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


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), FileNotFoundError("No usable temporary directory")],
)
def test_a_full_temporary_folder_is_not_the_configs_fault(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    (tmp_path / "fine.py").write_text("model = None\n")
    monkeypatch.setattr(tempfile, "TemporaryDirectory", fail)
    with pytest.raises(ToolError, match=r"fine\.py cannot be read: no temp.*TMPDIR"):
        cli.load_config(arguments(config="fine.py"))


def test_a_process_without_a_gpu_is_one_line(monkeypatch):
    monkeypatch.setattr(cli, "get_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ToolError, match="no GPU for process 2 .* has 2: start one"):
        cli.build_runner(Config(dict(launcher="pytorch")))


CONFIG = """
model = dict(backbone=dict(type="ODResNet", init_cfg=None))
param_scheduler = [dict(type="LinearLR")]
"""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"modle.backbone.depth": 18}, r"no modle; did you mean model\?"),
        ({"model.backbon.depth": 18}, r"no backbon; did you mean backbone\?"),
        ({"param_scheduler.1.end": 5}, "the list has 1 items"),
        ({"lod_from": "a.pth"}, r"no lod_from; did you mean load_from\?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_nothing_would_read_is_refused(tmp_path, options, reason):
    (tmp_path / "plain.py").write_text(CONFIG)
    with pytest.raises(ToolError, match=reason):
        cli.load_config(arguments(config="plain.py", cfg_options=options))


def test_an_option_may_add_an_argument_a_section_of_a_part_or_one_of_the_run(tmp_path):
    (tmp_path / "plain.py").write_text(CONFIG)
    options = {
        "model.backbone.kernel_num": 4,
        "model.backbone.plugins.cfg.type": "ContextBlock",
        "model.backbone.init_cfg": dict(type="Kaiming", _delete_=True),
        "param_scheduler.0.end": 5,
        "load_from": "a.pth",
        "randomness.seed": 1,
        "model_wrapper_cfg.find_unused_parameters": True,
    }
    cfg = cli.load_config(arguments(config="plain.py", cfg_options=options))
    assert cfg.model.backbone.kernel_num == 4
    assert cfg.model.backbone.plugins.cfg.type == "ContextBlock"
    assert cfg.model.backbone.init_cfg.type == "Kaiming"
    assert cfg.param_scheduler[0].end == 5
    assert (cfg.load_from, cfg.randomness.seed) == ("a.pth", 1)
