"""complexity.py counts detectors and tables from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

from analysis.complexity import main  # noqa: E402

CONFIG = ROOT / "configs" / "odconv" / "mask-rcnn_mobilenetv2-odconv4x_fpn_1x_coco.py"


def complexity(folder: Path, *words: object) -> subprocess.CompletedProcess:
    script = ROOT / "tools" / "analysis" / "complexity.py"
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "ODCONV_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_counts_a_config_part_by_part(tmp_path):
    words = ("--size", "128x160", "--boxes", "20", "--masks", "5", "--json", "a/b.json")
    done = complexity(tmp_path, CONFIG, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    title = "one image of 128x160, 20 boxes, 5 masks"
    assert lines[0] == f"# {CONFIG.stem}, {title}"
    assert lines[2].startswith("| part | parameters |")
    assert lines[4].startswith("| all | 30,503,005 |")
    content = json.loads((tmp_path / "a" / "b.json").read_text())
    assert content["size"] == [128, 160]
    assert content["total"]["parameters"] == 30_503_005
    parts = content["parts"]
    assert parts["backbone"]["parameters"] == 10_231_149
    assert {"backbone.conv1", "backbone.layer7", "backbone.conv2"} < set(parts)
    assert {"neck", "rpn_head", "roi_head.bbox_head", "roi_head.mask_head"} < set(parts)
    assert [line.split()[1] for line in lines[5:]] == list(parts)
    for count in ("parameters", "trainable", "multiply_adds", "activations"):
        whole = [parts[name][count] for name in parts if "." not in name]
        assert sum(whole) == content["total"][count] > 0


def test_cfg_options_change_what_is_counted(tmp_path):
    options = ("--cfg-options", "model.backbone.kernel_num=1", "--size", "64x64")
    done = complexity(tmp_path, CONFIG, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| all | 23,931,041 |" in done.stdout


def test_shows_every_stage_of_a_cascade(tmp_path):
    (tmp_path / "cascade.py").write_text(
        "_base_ = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'\n"
    )
    done = complexity(tmp_path, "cascade.py", "--size", "64x64")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[0].endswith("64x64, 1000 boxes")
    assert all(f"| roi_head.bbox_head.{stage} |" in done.stdout for stage in range(3))


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "name a config"),
        (["--table", "config.py"], "name a config"),
        (["--table", "--size", "64x64"], "is for a config"),
        (["config.py", "--out", "page.md"], "is for --table"),
        (["config.py", "--size", "64"], "HEIGHTxWIDTH"),
        (["config.py", "--boxes", "0"], "positive"),
        (["missing.py"], "no config file missing.py"),
        (["broken.py"], "broken.py cannot be read"),
        (["config.py"], "no model"),
        (["detr.py", "--size", "64x64"], "DETR cannot be counted"),
        (["--table", "--out", "missing.md"], "no page missing.md"),
        (["--table", "--out", "page.md"], "no place for a table"),
    ],
)
def test_what_is_wrong_ends_in_one_line(words, reason, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.py").write_text("default_scope = 'mmdet'\n")
    (tmp_path / "broken.py").write_text("model = dict(\n")
    (tmp_path / "page.md").write_text("# A page\n")
    (tmp_path / "detr.py").write_text(
        "_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(sys, "argv", ["complexity.py", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err.splitlines()[-1]
    assert (tmp_path / "page.md").read_text() == "# A page\n"


def test_the_whole_command_ends_without_a_traceback(tmp_path):
    done = complexity(tmp_path, "missing.py")
    assert done.returncode == 2
    assert done.stdout == ""
    line = "error: no config file missing.py; give the path of one"
    assert done.stderr.splitlines()[-1] == line
    assert "Traceback" not in done.stderr
