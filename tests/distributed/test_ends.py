"""A job of which one process dies ends, all of it, and says which one it was."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.distributed.group import ROOT, free_port
from tests.tiny_detector import write_tiny_detector
from tests.until import until

STARTED = 180  # seconds for imports on a busy machine
ENDED = 60

# What the last process does at its second iteration.
HOOK = """
import os
import time

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class LastProcess(Hook):
    def __init__(self, does):
        self.does = does

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter != 1:
            return
        rate = runner.optim_wrapper.param_groups[0]["initial_lr"]
        with open(f"unfinished{runner.rank}", "w") as file:
            print(os.getpid(), rate, file=file)
        os.rename(file.name, f"arrived{runner.rank}")
        if runner.rank + 1 < runner.world_size:
            return
        if self.does == "fail":
            raise ValueError("on purpose")
        if self.does == "wait":
            time.sleep(600)
"""

CONFIG = """
train_cfg.update(max_epochs=100000, val_interval=100000)
default_hooks = dict(checkpoint=dict(interval=100000))
train_dataloader.update(num_workers=1)
custom_imports = dict(imports=["odconv_det", "last_process"])
custom_hooks = [dict(type="LastProcess", does={does!r})]
"""


def alive(mark: str) -> list[int]:
    """Processes with this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark.encode() in (folder / "environ").read_bytes()
        except OSError:  # gone in between, or somebody else's
            continue
        if marked:
            found.append(int(folder.name))
    return found


class Job:
    """Training with so many processes by tools/dist_train.sh."""

    def __init__(self, folder, environment, processes, does, *words):
        (folder / "last_process.py").write_text(HOOK)
        config = write_tiny_detector(folder, CONFIG.format(does=does))
        self.folder, self.processes, self.mark = folder, processes, f"JOB={folder}"
        settings = dict(PORT=free_port(), PYTHONPATH=str(folder), JOB=str(folder))
        with open(folder / "log", "w") as log:
            self.process = subprocess.Popen(
                [ROOT / "tools" / "dist_train.sh", config, str(processes), *words],
                cwd=folder,
                env=environment | settings,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def arrivals(self) -> list[tuple[int, float]]:
        """Number and learning rate of each process, once all are at the iteration."""
        files = [self.folder / f"arrived{rank}" for rank in range(self.processes)]
        assert until(
            lambda: self.process.poll() is not None or all(f.exists() for f in files),
            STARTED,
        )
        words = [file.read_text().split() for file in files]
        return [(int(pid), float(rate)) for pid, rate in words]

    def end(self, seconds: float = ENDED) -> tuple[int, str]:
        """Exit status and output; no process is left."""
        status = self.process.wait(seconds)
        assert until(lambda: not alive(self.mark), ENDED)
        return status, (self.folder / "log").read_text()


@pytest.fixture
def start(tmp_path, environment):
    jobs = []

    def start(processes, does, *words) -> Job:
        jobs.append(Job(tmp_path, environment, processes, does, *words))
        return jobs[-1]

    yield start
    for job in jobs:
        for pid in alive(job.mark):
            os.kill(pid, signal.SIGKILL)
        job.process.wait()


@pytest.mark.parametrize(
    "processes, does, number",
    [(2, "wait", signal.SIGKILL), (4, "go on", signal.SIGKILL)]
    + [(2, "go on", signal.SIGTERM)],
    ids=["in an exchange of gradients", "in the middle of training", "by SIGTERM"],
)
def test_a_killed_process_ends_the_job(start, processes, does, number):
    job = start(processes, does, "--auto-scale-lr")
    pids, rates = zip(*job.arrivals(), strict=True)
    # Two images for each process, and a config for two in all.
    assert rates == pytest.approx([processes * 0.01] * processes)
    assert set(pids) < set(alive(job.mark))
    os.kill(pids[-1], number)
    status, output = job.end()
    assert status == (1 if number == signal.SIGKILL else 128 + number)
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"error: process {processes - 1} was ended by {number.name}")
    assert "ChildFailedError" not in output


def test_a_process_that_fails_ends_the_job(start):
    job = start(2, "fail")
    status, output = job.end(STARTED)
    assert status == 1
    assert "ValueError: on purpose" in output
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: process ")
    assert "ChildFailedError" not in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_ends_the_job_with_one_line(start, number):
    job = start(2, "go on")
    job.arrivals()
    job.process.send_signal(number)
    status, output = job.end()
    assert status == 128 + number
    assert "Traceback" not in output
    # torchrun may say last that it sends the signal to the second process.
    assert output.count("the same command with --resume") == 1
