"""A training of 2,000 iterations holds at its end what it held after a quarter."""

import json
from pathlib import Path

import pytest
import torch

from tests.live import entries, live_tensors
from tests.tiny_detector import write_tiny_detector

TRAIN = Path(__file__).resolve().parents[2] / "tools" / "train.py"
ITERATIONS, INTERVAL = 2000, 125
MB = 2**20

# Nearly every batch has a size of its own. Validation and checkpoints come four times,
# the first time before the samples that later ones are compared with.
SETTINGS = f"""
dataset["pipeline"][2] = dict(
    type="RandomResize", scale=[(32, 32), (96, 96)], keep_ratio=False
)
train_dataloader.update(
    num_workers=2, persistent_workers=True, sampler=dict(type="InfiniteSampler")
)
val_dataloader.update(num_workers=2, persistent_workers=True)
train_cfg = dict(
    type="IterBasedTrainLoop", max_iters={ITERATIONS}, val_interval={ITERATIONS // 4}
)
param_scheduler = []
log_processor = dict(by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval={ITERATIONS // 4}))
custom_imports = dict(imports=["odconv_det", "tests.memory_hook"])
custom_hooks = [
    dict(type="CheckInvalidLossHook", interval=50),
    dict(type="CalibrateHook"),
    dict(type="MemoryHook", interval={INTERVAL}),
]
"""


@pytest.fixture(scope="module")
def quarters(forge, tmp_path_factory):
    """The samples of the second quarter, and those of the last."""
    folder = tmp_path_factory.mktemp("long run")
    config = write_tiny_detector(folder, SETTINGS, images=8)
    # oneDNN keeps what it has compiled for the last 1,024 shapes: bounded, but not full
    # after a quarter. With less room it is.
    room = dict(ONEDNN_PRIMITIVE_CACHE_CAPACITY="64")
    status, output = forge.run(folder, TRAIN, config, "--work-dir", "run", **room)
    assert status == 0, output
    lines = (folder / "run" / "memory.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    quarter = ITERATIONS // INTERVAL // 4
    assert len(samples) == 4 * quarter
    # The first sample after a validation still sees what that was first to need.
    return samples[quarter + 1 : 2 * quarter], samples[-quarter:]


def test_what_is_counted_shows_a_leak():
    kept, by_shape = [], {}
    held = [kept, by_shape]
    before = live_tensors(), entries()
    for number in range(1000):
        kept.append(torch.zeros(1))
        by_shape[number, number] = 1
    assert live_tensors() - before[0] == 1000
    assert entries() - before[1] > 1900
    assert len(held) == 2


def test_every_tensor_is_given_back(quarters):
    second, last = quarters
    assert {s["tensors"] for s in last} == {s["tensors"] for s in second}
    assert second[0]["tensors"] > 100  # parameters, at the least


def test_no_container_grows(quarters):
    second, last = quarters
    grown = max(s["entries"] for s in last) - max(s["entries"] for s in second)
    # One for each size that was met would be more than a thousand.
    assert grown < 200


def test_the_resident_set_does_not_grow(quarters):
    second, last = quarters
    grown = max(s["resident"] for s in last) - max(s["resident"] for s in second)
    # MMEngine's log keeps two numbers of each of its nine values an iteration: 0.3 MB
    # in all, and a copy while it appends. The allocator's rounding does the rest. A map
    # of the network kept in each iteration would be 10 MB and more.
    assert grown < 4 * MB


def test_the_workers_do_not_grow(quarters):
    second, last = quarters
    assert all(len(s["workers"]) == 4 for s in second + last)
    for before, after in zip(
        *([s["workers"] for s in part] for part in (second, last[1:])), strict=True
    ):
        for early, late in zip(before, after, strict=True):
            assert late - early < 2 * MB
