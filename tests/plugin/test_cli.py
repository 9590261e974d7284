"""What the tools check before they start, and how they say it."""

from argparse import Namespace

import pytest
import torch
from mmengine.config import Config

from odconv_det.checkpoints import CheckpointError
from odconv_det.plugin import cli


def dataset(root="data", **changes) -> dict:
    """A data set with one annotation file and one image folder under `root`."""
    files = dict(ann_file="train.json", data_prefix=dict(img="images/"))
    return dict(type="CocoDataset", data_root=root, **files) | changes


def training(tmp_path, **changes) -> Config:
    """The part of a config that names weights."""
    init = dict(type="Pretrained", checkpoint=changes.pop("imagenet", "gone.pth"))
    model = dict(backbone=dict(type="ODResNet", init_cfg=init))
    return Config(dict(model=model, work_dir=str(tmp_path), **changes))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")


@pytest.mark.parametrize("kind", [cli.ToolError, CheckpointError])
def test_error_of_a_user_is_one_line_and_status_2(kind, capsys):
    with pytest.raises(SystemExit) as end, cli.one_line_errors():
        raise kind("nothing\n  there")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: nothing there\n"


def test_error_of_the_program_keeps_its_traceback():
    with pytest.raises(RuntimeError), cli.one_line_errors():
        raise RuntimeError("a bug")


def test_first_process_of_a_machine_reports_before_the_others(monkeypatch):
    waits = []
    monkeypatch.setattr(cli.time, "sleep", waits.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit), cli.one_line_errors():
            raise cli.ToolError("nothing there")
    assert len(waits) == 1


def test_every_missing_file_of_a_data_set_is_named_once():
    cfg = Config(dict(train=dict(dataset=dataset()), val=dict(dataset=dataset())))
    with pytest.raises(cli.ToolError) as error:
        cli.check_data(cfg, "train", "val", "absent")
    assert str(error.value).count("data/train.json") == 1
    assert "data/images/" in str(error.value)


def test_data_set_that_is_there_passes(tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "train.json").touch()
    evaluators = [
        dict(type="CocoMetric", ann_file="data/train.json"),
        dict(type="Other"),
    ]
    cfg = Config(dict(train=dict(dataset=dataset()), evaluator=evaluators))
    cli.check_data(cfg, "train", "evaluator")


@pytest.mark.parametrize(
    "wrapper",
    [
        dict(type="RepeatDataset", times=2, dataset=dataset("gone")),
        dict(type="ConcatDataset", datasets=[dataset("gone")]),
        dict(
            type="ClassBalancedDataset",
            oversample_thr=0.1,
            dataset=dict(type="ConcatDataset", datasets=[dataset("gone")]),
        ),
    ],
    ids=lambda wrapper: wrapper["type"],
)
def test_data_sets_are_found_inside_wrappers(wrapper):
    cfg = Config(dict(train=dict(dataset=wrapper)))
    with pytest.raises(cli.ToolError, match=r"gone/train\.json"):
        cli.check_data(cfg, "train")


def test_missing_annotations_of_an_evaluator_are_an_error():
    cfg = Config(dict(evaluator=[dict(type="CocoMetric", ann_file="gone.json")]))
    with pytest.raises(cli.ToolError, match=r"gone\.json"):
        cli.check_data(cfg, "evaluator")


def test_data_on_other_storage_is_left_to_its_backend():
    storage = dict(backend="petrel")
    sets = [dataset("s3://bucket"), dataset("gone", backend_args=storage)]
    cfg = Config(dict(train=dict(dataset=dict(type="ConcatDataset", datasets=sets))))
    cli.check_data(cfg, "train")


@pytest.mark.parametrize("resume", [False, True])
def test_missing_checkpoint_is_an_error(tmp_path, resume):
    cfg = training(tmp_path, load_from="epoch_1.pth", resume=resume)
    with pytest.raises(cli.ToolError, match=r"no checkpoint epoch_1\.pth"):
        cli.check_weights(cfg)


def test_latest_checkpoint_that_was_deleted_is_an_error(tmp_path):
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    with pytest.raises(cli.ToolError, match=r"epoch_1\.pth.*--resume"):
        cli.check_weights(training(tmp_path, resume=True))


def test_missing_imagenet_file_is_an_error_for_a_first_run(tmp_path):
    for resume in (False, True):
        with pytest.raises(cli.ToolError, match=r"ImageNet weights gone\.pth"):
            cli.check_weights(training(tmp_path, resume=resume))


def test_missing_imagenet_file_does_not_stop_a_run_with_a_checkpoint(tmp_path):
    checkpoint = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": {}}, checkpoint)
    (tmp_path / "last_checkpoint").write_text(str(checkpoint))
    for start in (dict(load_from=str(checkpoint)), dict(resume=True)):
        cfg = training(tmp_path, **start)
        cfg.model.backbone.type = "ResNet"  # MMDetection's insists on its file
        cli.check_weights(cfg)
        assert cfg.model.backbone.init_cfg is None

        cfg = training(tmp_path, **start)  # ours waits for the checkpoint itself
        cli.check_weights(cfg)
        assert cfg.model.backbone.init_cfg.checkpoint == "gone.pth"


def test_weights_with_an_address_are_left_to_their_loader(tmp_path):
    cfg = training(tmp_path, imagenet="odconv://resnet50_4x", load_from="s3://a/b.pth")
    cli.check_weights(cfg)
    assert cfg.model.backbone.init_cfg.checkpoint == "odconv://resnet50_4x"


def arguments(**changes) -> Namespace:
    flags = dict(work_dir=None, cfg_options=None, launcher="none", local_rank=0)
    return Namespace(**(flags | changes))


def test_missing_config_or_base_is_an_error(tmp_path):
    with pytest.raises(cli.ToolError, match=r"no config file gone\.py"):
        cli.load_config(arguments(config="gone.py"))
    (tmp_path / "leaf.py").write_text('_base_ = "./gone.py"\n')
    with pytest.raises(cli.ToolError, match=r"leaf\.py.*gone\.py"):
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
    with pytest.raises(cli.ToolError, match=r"needs GPUs.*dist_train"):
        cli.build_runner(Config(dict(launcher=launcher)))


def broken_file(tmp_path, content=b"<html>"):
    (tmp_path / "broken.pth").write_bytes(content)
    return "broken.pth"


def test_a_checkpoint_that_is_a_web_page_is_named(tmp_path):
    cfg = training(tmp_path, load_from=broken_file(tmp_path))
    with pytest.raises(cli.ToolError, match=r"broken\.pth is no whole torch file"):
        cli.check_weights(cfg)


def test_a_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(cli.ToolError, match=r"no checkpoint folder\.pth"):
        cli.check_weights(training(tmp_path, load_from="folder.pth"))


@pytest.mark.parametrize(
    "start",
    [
        dict(init_cfg=[dict(type="Pretrained", checkpoint="gone.pth")]),
        dict(pretrained="gone.pth"),
    ],
)
def test_weights_are_found_however_they_are_given(tmp_path, start):
    model = dict(backbone=dict(type="OD_ResNet", depth=18, **start))
    with pytest.raises(cli.ToolError, match=r"no ImageNet weights gone\.pth"):
        cli.check_weights(Config(dict(model=model, work_dir=str(tmp_path))))


@pytest.mark.parametrize(
    "content", ["model = dict(\n", "model = nothing_of_that_name\n"]
)
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, content):
    (tmp_path / "bad.py").write_text(content)
    with pytest.raises(cli.ToolError, match=r"bad\.py cannot be read"):
        cli.load_config(arguments(config="bad.py"))
