"""What a run goes on from, and what it starts from, by real runs of the tools."""

import shutil
from pathlib import Path

import pytest
import torch

from odconv_det.checkpoints import read_tensors
from tests.tiny_detector import write_tiny_detector

TOOLS = Path(__file__).parents[2] / "tools"
TRAIN, TEST = TOOLS / "train.py", TOOLS / "test.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_tiny_detector(folder, "train_cfg.update(max_epochs=1)")
    return folder


@pytest.fixture(scope="module")
def train(folder, forge):
    def run(name, *words):
        words = (folder / "tiny.py", "--work-dir", folder / name, *words)
        status, output = forge.run(folder, TRAIN, *words)
        assert status == 0, output[-3000:]
        return output

    return run


@pytest.fixture(scope="module")
def first(train, folder):
    """A finished run, with another seed than those that start from it."""
    train("first", "--cfg-options", "randomness.seed=5")
    return folder / "first" / "epoch_1.pth"


def test_a_run_that_was_killed_before_it_saved_starts_from_load_from(
    train, folder, first
):
    start = ("--cfg-options", f"load_from={first}")
    train("started", *start)
    train("again", "--resume", *start)
    train("scratch")
    started, again, scratch = (
        read_tensors(folder / name / "epoch_1.pth")
        for name in ("started", "again", "scratch")
    )
    assert all(torch.equal(again[key], started[key]) for key in started)
    assert any(not torch.equal(scratch[key], started[key]) for key in started)


def test_a_run_that_has_saved_goes_on_from_there(train, folder, first):
    """And not from ``load_from``, which it has done already."""
    longer = ("--cfg-options", f"load_from={first}", "train_cfg.max_epochs=2")
    train("longer", "--cfg-options", f"load_from={first}")
    output = train("longer", "--resume", *longer)
    assert "resumed epoch: 1" in output
    assert (folder / "longer" / "epoch_2.pth").is_file()


def test_a_run_that_lost_last_checkpoint_goes_on_from_the_newest_whole_file(
    train, folder, first
):
    work_dir = folder / "lost"
    shutil.copytree(first.parent, work_dir)
    (work_dir / "last_checkpoint").unlink()
    saved = first.read_bytes()
    (work_dir / "epoch_2.pth").write_bytes(saved[: len(saved) // 2])
    output = train("lost", "--resume", "--cfg-options", "train_cfg.max_epochs=2")
    said = f"{work_dir} has no last_checkpoint: going on from {work_dir}/epoch_1.pth"
    assert said in output
    assert "resumed epoch: 1" in output
    assert (work_dir / "epoch_1.pth").read_bytes() == saved


def test_of_a_torn_checkpoint_the_newest_whole_one_is_named(folder, forge, first):
    work_dir = folder / "torn"
    shutil.copytree(first.parent, work_dir)
    saved = first.read_bytes()
    torn = work_dir / "epoch_2.pth"
    torn.write_bytes(saved[: len(saved) // 2])
    (work_dir / "last_checkpoint").write_text(str(torn))
    for words in (["--resume"], ["--resume", torn]):
        words = (folder / "tiny.py", "--work-dir", work_dir, *words)
        status, output = forge.run(folder, TRAIN, *words)
        assert status == 2
        assert output.splitlines()[-1] == (
            f"error: checkpoint {torn} is not a whole torch file: pass --resume "
            f"{work_dir}/epoch_1.pth instead, the newest whole one"
        )
    assert (work_dir / "epoch_1.pth").read_bytes() == saved


def test_a_run_without_a_checkpoint_says_that_it_starts_anew(train, folder):
    output = train("anew", "--resume")
    assert f"{folder / 'anew'} has no checkpoint yet: starting afresh" in output


def test_the_config_that_a_resumed_run_leaves_tests_as_any(train, folder, forge):
    train("left")
    train("left", "--resume", "--cfg-options", "train_cfg.max_epochs=2")
    left = folder / "left" / "tiny.py"
    assert "resume = True" in left.read_text()
    for file in ("epoch_2.pth", next((folder / "left").glob("best_*")).name):
        words = (left, folder / "left" / file, "--work-dir", folder / "tested")
        status, output = forge.run(folder, TEST, *words)
        assert status == 0, output[-3000:]
        assert "resumed" not in output
