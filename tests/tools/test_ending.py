"""However a run ends, its worker processes end with it."""

import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.tiny_detector import write_tiny_detector
from tests.until import until

TRAIN = Path(__file__).resolve().parents[2] / "tools" / "train.py"
WORKERS = """
train_dataloader.update(num_workers=2, persistent_workers=True)
val_dataloader.update(num_workers=1, persistent_workers=True)
default_hooks = dict(logger=dict(interval=1))
"""
ENDLESS = WORKERS + "train_cfg['max_epochs'] = 100000\n"


def living(session):
    """Processes of the session, but for those that only wait to be asked for."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except ProcessLookupError:  # has ended meanwhile
            continue
    return [p for p in found if p.info["status"] != psutil.STATUS_ZOMBIE]


def status_of(child):
    """Exit status once every process of the run is gone."""
    assert until(lambda: not living(child.pid)), child.output
    return child.wait()


@pytest.fixture
def start(forge, tmp_path):
    """Starts a training with these settings, which ends with the test at the latest."""
    children = []

    def start(settings):
        config = write_tiny_detector(tmp_path, settings)
        children.append(forge.start(tmp_path, TRAIN, config))
        return children[-1]

    yield start
    for child in children:
        for process in living(child.pid):
            process.kill()


@pytest.fixture
def endless(start):
    """A training that has validated once: workers of both loaders run."""
    child = start(ENDLESS)
    second = re.compile(r"Epoch\(train\) +\[2\]")
    assert until(lambda: second.search(child.output)), child.output
    assert len(living(child.pid)) == 1 + 3
    return child


def test_after_the_last_epoch(start):
    child = start(WORKERS)
    assert status_of(child) == 0, child.output


def test_after_an_error_in_training(start):
    settings = """
        optim_wrapper["optimizer"].update(lr=1e30)
        custom_hooks = [dict(type="CheckInvalidLossHook", interval=1)]
    """
    child = start(ENDLESS.replace("\n", "\n        ") + settings)
    assert status_of(child) == 1, child.output
    assert "loss become infinite or NaN" in child.output


@pytest.mark.parametrize(
    "send, number, word",
    [
        (os.killpg, signal.SIGINT, "interrupted"),
        (os.killpg, signal.SIGTERM, "terminated"),
        (os.kill, signal.SIGTERM, "terminated"),
    ],
    ids=["Ctrl-C", "SIGTERM to all", "SIGTERM to the first"],
)
def test_after_a_signal_with_one_line(endless, send, number, word):
    send(endless.pid, number)
    assert status_of(endless) == 128 + number, endless.output
    assert "Traceback" not in endless.output
    last = endless.output.splitlines()[-1]
    assert last.startswith(f"{word}: the same command with --resume")


def test_after_the_first_process_was_killed(endless):
    endless.kill()
    assert status_of(endless) == -signal.SIGKILL
