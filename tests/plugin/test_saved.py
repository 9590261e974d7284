"""Which of the files in a run's folder are its checkpoints, and which is the newest."""

import io

import pytest
import torch
from mmengine.config import Config

from odconv_det.checkpoints import CheckpointError
from odconv_det.plugin.saved import latest, names_of, newest_whole, pointer


@pytest.fixture
def whole():
    file = io.BytesIO()
    torch.save({"a": torch.ones(100)}, file)
    return file.getvalue()


def test_the_newest_is_the_one_of_the_highest_number(tmp_path, whole):
    for name in ("epoch_2.pth", "epoch_10.pth", "epoch_9.pth", "epoch_100.pth.tar"):
        (tmp_path / name).write_bytes(whole)
    for name in ("best_epoch_11.pth", "iter_12.pth", "epoch_x.pth", "last.pth"):
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "epoch_13.pth").mkdir()
    assert newest_whole(tmp_path, "epoch_{}.pth") == tmp_path / "epoch_10.pth"
    assert newest_whole(tmp_path, "iter_{}.pth") == tmp_path / "iter_12.pth"
    assert newest_whole(tmp_path, "step_{:05d}.pth") is None
    assert newest_whole(tmp_path / "nowhere", "epoch_{}.pth") is None


def test_one_that_was_not_written_to_its_end_does_not_count(tmp_path, whole):
    (tmp_path / "epoch_1.pth").write_bytes(whole)
    for number, content in ((2, whole[:-1]), (3, b""), (4, b"<html>")):
        (tmp_path / f"epoch_{number}.pth").write_bytes(content)
    assert latest(tmp_path, "epoch_{}.pth") == tmp_path / "epoch_1.pth"
    (tmp_path / "epoch_1.pth").unlink()
    with pytest.raises(CheckpointError, match=r"has epoch_4\.pth, which is not whole"):
        latest(tmp_path, "epoch_{}.pth")


def test_nothing_saved_is_nothing_to_go_on_from(tmp_path):
    (tmp_path / "20260101_000000.log").touch()
    assert latest(tmp_path, "epoch_{}.pth") is None
    assert pointer(tmp_path) is None


@pytest.mark.parametrize(
    "hook, names",
    [
        (None, ("runs/x", "epoch_{}.pth")),
        (dict(by_epoch=False), ("runs/x", "iter_{}.pth")),
        (dict(out_dir="else"), ("else/x", "epoch_{}.pth")),
        (dict(filename_tmpl="step_{}.pth"), ("runs/x", "step_{}.pth")),
    ],
)
def test_the_config_says_where_and_under_which_names(hook, names):
    cfg = Config(dict(work_dir="runs/x", default_hooks=dict(checkpoint=hook)))
    folder, template = names_of(cfg)
    assert (str(folder), template) == names
