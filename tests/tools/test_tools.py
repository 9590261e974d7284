"""The tools as people start them: real processes on a tiny COCO data set."""

import os
import pickle
import re
import runpy
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.models.backbones import MobileNetV2
from mmengine.config import Config

from odconv_det.plugin import testing
from tests.distributed.group import free_port
from tests.tiny_coco import TINY_RUN, as_cfg_options, write_tiny_coco

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "odconv"
MASK_RCNN = CONFIGS / "mask-rcnn_mobilenetv2-odconv4x_fpn_1x_coco.py"
DCD = CONFIGS.parent / "dcd" / "faster-rcnn_mobilenetv2-dcd_fpn_1x_coco.py"
FASTER_RCNN = CONFIGS / "faster-rcnn_mobilenetv2-odconv4x_fpn_1x_coco.py"
MMDET_TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"

NO_WEIGHTS = {"model.backbone.init_cfg": None}
LOST_WEIGHTS = {"model.backbone.init_cfg.checkpoint": "gone/imagenet.pth"}


def start(folder: Path, *command: object, **settings) -> subprocess.CompletedProcess:
    """Run a command in `folder` without a GPU, with these environment variables."""
    environment = os.environ | settings
    python_folder = os.path.dirname(sys.executable)
    environment["PATH"] = python_folder + os.pathsep + environment["PATH"]
    environment["PYTHONPATH"] = os.pathsep.join([str(folder / "offline"), str(ROOT)])
    environment["CUDA_VISIBLE_DEVICES"] = ""
    # More threads than cores spend their time waiting for each other.
    environment["OMP_NUM_THREADS"] = "1"
    environment["ODCONV_HOME"] = str(folder / "no weights here")
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def python(folder: Path, script: Path, *words: object) -> subprocess.CompletedProcess:
    return start(folder, sys.executable, script, *words)


def options(*changes: dict) -> list[str]:
    settings = dict(TINY_RUN)
    for change in changes:
        settings.update(change)
    return ["--cfg-options", *as_cfg_options(settings)]


def steps(checkpoint: Path) -> tuple[int, int]:
    meta = torch.load(checkpoint, weights_only=False)["meta"]
    return meta["epoch"], meta["iter"]


def ok(done: subprocess.CompletedProcess) -> str:
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return output


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A folder with data/coco, and the checkpoint of one epoch of two iterations."""
    folder = tmp_path_factory.mktemp("tools")
    write_tiny_coco(folder / "data" / "coco")
    ok(
        python(
            folder,
            ROOT / "tools" / "train.py",
            MASK_RCNN,
            "--work-dir=run",
            "--auto-scale-lr",
            *options(NO_WEIGHTS),
        )
    )
    return folder, folder / "run" / "epoch_1.pth"


def test_trains_from_scratch_and_keeps_the_best(trained):
    folder, checkpoint = trained
    assert steps(checkpoint) == (1, 2)
    assert list((folder / "run").glob("best_coco_bbox_mAP*.pth"))
    log = next((folder / "run").glob("*/*.log")).read_text()
    assert "LR is set based on batch size of 16" in log


def test_resumes_the_latest_run_without_the_imagenet_file(trained):
    folder, checkpoint = trained
    output = ok(
        python(
            folder,
            ROOT / "tools" / "train.py",
            MASK_RCNN,
            "--work-dir=run",
            *options(LOST_WEIGHTS, {"train_cfg.max_epochs": 2}),
            "--resume",
        )
    )
    assert "resumed epoch: 1, iter: 2" in output
    assert steps(checkpoint.with_name("epoch_2.pth")) == (2, 4)


def test_mmdetections_own_tool_resumes_the_same_run(trained):
    folder, checkpoint = trained
    output = ok(
        python(
            folder,
            MMDET_TOOLS / "train.py",
            MASK_RCNN,
            "--work-dir=upstream",
            f"--resume={checkpoint}",
            *options(LOST_WEIGHTS, {"train_cfg.max_epochs": 2}),
        )
    )
    assert "resumed epoch: 1, iter: 2" in output
    assert steps(folder / "upstream" / "epoch_2.pth") == (2, 4)


@pytest.fixture(scope="module")
def tested(trained) -> str:
    """What tools/test.py printed; it wrote predictions and pictures below tested/."""
    folder, checkpoint = trained
    return ok(
        python(
            folder,
            ROOT / "tools" / "test.py",
            MASK_RCNN,
            checkpoint,
            "--work-dir=tested",
            "--out=tested/predictions.pkl",
            "--show-dir=pictures",
            *options(),
        )
    )


def predictions(folder: Path) -> list[dict]:
    return pickle.loads((folder / "predictions.pkl").read_bytes())


def test_evaluates_a_checkpoint_and_writes_predictions_and_pictures(trained, tested):
    folder, _ = trained
    assert re.search(r"coco/bbox_mAP: \d", tested)
    assert re.search(r"coco/segm_mAP: \d", tested)
    written = predictions(folder / "tested")
    assert len(written) == 4
    assert {"bboxes", "masks"} <= set(written[0]["pred_instances"])
    assert len(list((folder / "tested").glob("*/pictures/*.png"))) == 4


def test_a_fused_detector_predicts_the_same(trained, tested):
    folder, checkpoint = trained
    output = ok(
        python(
            folder,
            ROOT / "tools" / "test.py",
            MASK_RCNN,
            checkpoint,
            "--work-dir=fused",
            "--out=fused/predictions.pkl",
            "--fuse",
            *options(),
        )
    )
    assert "testing with the fused model" in output
    pairs = zip(
        predictions(folder / "tested"), predictions(folder / "fused"), strict=True
    )
    for plain, fused in pairs:
        scores = [p["pred_instances"]["scores"].sort().values for p in (plain, fused)]
        assert len(scores[0]) > 0
        torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-4)


def test_two_processes_on_a_cpu_start_from_a_checkpoint(trained):
    folder, checkpoint = trained
    changes = {"load_from": checkpoint, "work_dir": "distributed"}
    output = ok(
        start(
            folder,
            ROOT / "tools" / "dist_train.sh",
            MASK_RCNN,
            2,
            *options(LOST_WEIGHTS, changes),
            PORT=free_port(),
        )
    )
    assert "Load checkpoint from" in output
    # Four images on two processes, two at a time.
    assert steps(folder / "distributed" / "epoch_1.pth") == (1, 1)


def test_two_processes_start_from_inflated_weights(trained):
    folder, _ = trained
    torch.manual_seed(0)
    torch.save(MobileNetV2(0.25).state_dict(), folder / "static.pth")
    weights = {"model.backbone.init_cfg.checkpoint": "static.pth"}
    output = ok(
        start(
            folder,
            ROOT / "tools" / "dist_train.sh",
            DCD,
            2,
            "--work-dir=inflated",
            *options(weights),
            PORT=free_port(),
        )
    )
    assert "DynamicMobileNetV2: inflated" in output
    assert "calibrated 64 BatchNorms" in output
    state = torch.load(folder / "inflated" / "epoch_1.pth", weights_only=False)
    norm = "backbone.layer2.0.linear_conv.conv.fusion.bn1.running_mean"
    assert state["state_dict"][norm].any()
    output = ok(
        python(
            folder,
            ROOT / "tools" / "train.py",
            DCD,
            "--work-dir=inflated",
            "--resume",
            *options(weights, {"train_cfg.max_epochs": 2}),
        )
    )
    assert "resumed epoch: 1" in output
    assert "calibrated" not in output


def test_two_processes_evaluate_mirrored_images_with_a_fused_detector(trained):
    folder, checkpoint = trained
    output = ok(
        start(
            folder,
            ROOT / "tools" / "dist_test.sh",
            FASTER_RCNN,
            checkpoint,
            2,
            "--work-dir=mirrored",
            "--tta",
            "--fuse",
            "--out=mirrored/predictions.pkl",
            *options(),
            PORT=free_port(),
        )
    )
    assert re.search(r"coco/bbox_mAP: \d", output)
    assert "testing with the fused model" in output
    written = predictions(folder / "mirrored")
    assert sorted(prediction["img_id"] for prediction in written) == [1, 2, 3, 4]


def test_every_data_set_of_a_test_is_mirrored():
    pack = dict(type="PackDetInputs")
    sets = [
        dict(type="CocoDataset", pipeline=[dict(type="LoadImageFromFile"), last])
        for last in (pack, dict(pack, meta_keys=("img_id",)))
    ]
    whole = dict(type="ConcatDataset", datasets=sets)
    cfg = Config(dict(model=dict(), test_dataloader=dict(dataset=whole)))
    testing._use_tta(cfg)
    for number, keys in enumerate([None, ("img_id", "flip", "flip_direction")]):
        load, both = cfg.test_dataloader.dataset.datasets[number].pipeline
        mirrors, (last,) = both.transforms
        assert load.type == "LoadImageFromFile"
        assert [mirror.prob for mirror in mirrors] == [1.0, 0.0]
        assert last.get("meta_keys") == keys


def error_line(done: subprocess.CompletedProcess) -> str:
    """The only line of the error stream that reports, after checking there is one."""
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


def test_missing_data_ends_every_process_with_one_line(tmp_path):
    done = start(
        tmp_path, ROOT / "tools" / "dist_train.sh", MASK_RCNN, 2, PORT=free_port()
    )
    line = error_line(done)
    assert "data/coco/annotations/instances_train2017.json" in line
    assert "data/coco/val2017/" in line


def test_missing_imagenet_weights_end_in_one_line(trained):
    folder, _ = trained
    (folder / "offline").mkdir()
    (folder / "offline" / "gdown.py").write_text("raise ImportError('no network')")
    address = {"model.backbone.init_cfg.checkpoint": "odconv://mobilenetv2_100_4x"}
    done = python(
        folder,
        ROOT / "tools" / "train.py",
        MASK_RCNN,
        "--work-dir=stopped",
        *options(address),
    )
    line = error_line(done)
    assert "odconv://mobilenetv2_100_4x" in line
    assert "inflate=True" in line
    assert line.endswith("or from scratch with init_cfg=None")
    assert not list((folder / "stopped").glob("*.pth"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["train.py", "gone.py"], "no config file gone.py"),
        (["train.py", MASK_RCNN, "--resume=gone.pth"], "no checkpoint gone.pth"),
        (["test.py", MASK_RCNN, "gone.pth"], "no checkpoint gone.pth"),
        (["test.py", MASK_RCNN, "run/epoch_1.pth", "--tta"], "--tta merges boxes only"),
    ],
    ids=lambda value: None if isinstance(value, list) else value.replace(" ", "-"),
)
def test_wrong_arguments_end_in_one_line(trained, words, reason, monkeypatch, capsys):
    folder, _ = trained
    script, *arguments = words
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("sys.argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / script), run_name="__main__")
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {reason}")


def test_scripts_explain_themselves_without_arguments(tmp_path):
    scripts = sorted((ROOT / "tools").glob("*.sh"))
    assert [path.name for path in scripts] == [
        "dist_test.sh",
        "dist_train.sh",
        "slurm_train.sh",
    ]
    for path in scripts:
        done = start(tmp_path, path)
        assert done.returncode == 2
        assert f"Usage: tools/{path.name} " in done.stderr


def test_slurm_script_asks_for_the_gpus_and_passes_arguments_on(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    done = start(
        tmp_path,
        "env",
        f"PATH={tmp_path}:{os.environ['PATH']}",
        ROOT / "tools" / "slurm_train.sh",
        "gpu",
        "name",
        "my config.py",
        "runs/1",
        "--resume",
        GPUS="16",
        SRUN_ARGS="--qos=high --time=1",
    )
    words = ok(done).splitlines()
    assert {"--partition=gpu", "--gres=gpu:8", "--ntasks=16"} <= set(words)
    assert {"--qos=high", "--time=1"} <= set(words)
    script = str(ROOT / "tools" / "train.py")
    assert words[words.index(script) + 1 :] == [
        "my config.py",
        "--work-dir=runs/1",
        "--launcher=slurm",
        "--resume",
    ]
