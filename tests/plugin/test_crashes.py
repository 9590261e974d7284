"""Real runs, killed and out of disk space, lose nothing that was saved."""

import contextlib
import random
import re
import resource
import subprocess
import time
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from odconv_det.checkpoints import read_torch
from odconv_det.plugin.saved import newest_whole, pointer
from tests.tiny_detector import write_tiny_detector
from tests.until import until

TRAIN = Path(__file__).parents[2] / "tools" / "train.py"
EPOCHS = 6

CONFIG = f"""
custom_imports = dict(
    imports=["odconv_det", "tests.plugin.killer"], allow_failed_imports=False
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs={EPOCHS}, val_interval=2)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
"""


def checkpoint(path):
    return read_torch(path, make_history=HistoryBuffer)


def weights(folder):
    return checkpoint(folder / f"epoch_{EPOCHS}.pth")["state_dict"]


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


def best(folder: Path) -> set[str]:
    """Name of the best checkpoint that the latest one knows."""
    latest = checkpoint((folder / "last_checkpoint").read_text())
    info = latest["message_hub"]["runtime_info"]
    return {Path(info["best_ckpt"]).name} if "best_ckpt" in info else set()


def wait_for_words(words, child):
    if not until(lambda: words in child.output):
        child.kill()
        raise AssertionError(child.output[-3000:])


def saved_epoch(folder: Path) -> int:
    """The epoch that --resume goes on from; every file in the folder is whole."""
    for path in folder.glob("*.pth"):
        checkpoint(path)  # whole
    path = pointer(folder) or newest_whole(folder, "epoch_{}.pth")
    if path is None:
        return 0
    latest = checkpoint(path)
    if named := latest["message_hub"]["runtime_info"].get("best_ckpt"):
        checkpoint(named)
    return latest["meta"]["epoch"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A config, its data, and in `whole` the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("crashes")
    write_tiny_detector(folder, CONFIG)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder, forge):
    status, output = forge.run(folder, TRAIN, "tiny.py", "--work-dir", "whole")
    assert status == 0, output[-3000:]
    return weights(folder / "whole")


@pytest.mark.usefixtures("undisturbed")
def test_thirty_kills_lose_at_most_one_interval(folder, forge):
    draw = random.Random(0)
    work, runs, kills = folder / "run0", 0, 0
    while kills < 30:
        before = saved_epoch(work)
        by_step = kills % 2  # or by time
        child = forge.start(
            *(folder, TRAIN, "tiny.py", "--work-dir", work, "--resume"),
            KILL_AT=str(draw.randint(1, 50) if by_step else 0),
        )
        if not by_step:
            wait_for_words("Checkpoints will be saved", child)
            time.sleep(draw.uniform(0, 1.5))
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        status = child.wait()
        assert status in (0, -9), child.output[-3000:]
        after = saved_epoch(work)
        begun = re.findall(r"Saving checkpoint at (\d+) epochs", child.output)
        assert after >= max([before, *(int(epoch) - 1 for epoch in begun)])
        kills += status == -9
        if status == 0:
            assert_is_as_undisturbed(work, folder / "whole")
            runs += 1
            work = folder / f"run{runs}"
    status, output = forge.run(
        *(folder, TRAIN, "tiny.py", "--work-dir", work, "--resume")
    )
    assert status == 0, output[-3000:]
    assert_is_as_undisturbed(work, folder / "whole")


def assert_is_as_undisturbed(work, whole):
    """Same weights, and no file that a kill kept from being removed.

    The best one may be another: an evaluation that was killed is not repeated.
    """
    assert_equal(weights(work), weights(whole))
    assert names(work) - best(work) == names(whole) - best(whole)


def names(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def assert_stops_in_one_line(status, output):
    assert status == 2, output[-3000:]
    assert "Traceback" not in output
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "make room" in line
    assert "--resume" in line


def test_a_file_too_large_for_the_disk_stops_the_run_in_one_line(
    folder, undisturbed, forge
):
    words = (folder, TRAIN, "tiny.py", "--work-dir", folder / "limited")
    status, output = forge.run(*words, "--cfg-options", "train_cfg.max_epochs=3")
    assert status == 0, output[-3000:]
    half = (folder / "whole" / f"epoch_{EPOCHS}.pth").stat().st_size // 2
    child = forge.start(*words, "--resume")
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (half, half))
    assert_stops_in_one_line(child.wait(), child.output)
    assert saved_epoch(folder / "limited") == 3
    status, output = forge.run(*words, "--resume")
    assert status == 0, output[-3000:]
    assert_equal(weights(folder / "limited"), undisturbed)


@pytest.fixture
def small_disk(folder):
    """A file system with room for two checkpoints and a half."""
    disk = folder / "disk"
    disk.mkdir()
    room = int(2.5 * (folder / "whole" / f"epoch_{EPOCHS}.pth").stat().st_size)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_the_run_in_one_line(undisturbed, folder, forge, small_disk):
    words = (folder, TRAIN, "tiny.py", "--work-dir", small_disk / "run")
    options = ["--cfg-options", "default_hooks.checkpoint.max_keep_ckpts=-1"]
    status, output = forge.run(*words, *options)
    assert_stops_in_one_line(status, output)
    saved = saved_epoch(small_disk / "run")
    assert 1 <= saved < EPOCHS
    assert not list((small_disk / "run").glob(".*"))
    subprocess.run(
        ["mount", "-o", "remount,size=100m", str(small_disk)], check=True
    )  # room was made
    status, output = forge.run(*words, "--resume")
    assert status == 0, output[-3000:]
    assert f"resumed epoch: {saved}" in output
    assert_equal(weights(small_disk / "run"), undisturbed)


def test_a_run_without_a_seed_resumes_as_if_undisturbed(folder, forge):
    """With worker processes, which draw the random numbers of augmentation."""
    options = (
        "randomness.seed=None",
        "train_dataloader.num_workers=2",
        "train_dataloader.persistent_workers=True",
        "default_hooks.checkpoint.max_keep_ckpts=-1",
    )
    words = (folder, TRAIN, "tiny.py", "--work-dir")
    status, output = forge.run(*words, folder / "drawn", "--cfg-options", *options)
    assert status == 0, output[-3000:]
    start = folder / "drawn" / "epoch_3.pth"
    more = ("--resume", start, "--cfg-options", *options)
    status, output = forge.run(*words, folder / "again", *more)
    assert status == 0, output[-3000:]
    assert_equal(weights(folder / "again"), weights(folder / "drawn"))
