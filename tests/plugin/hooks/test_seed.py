"""Epochs draw numbers by their own seed."""

import functools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, worker_init_fn
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader, Dataset

from odconv_det.plugin.hooks import EpochSeedHook


class Numbers(Dataset):
    """What an augmentation would draw for each image, and which image it is."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def runner(epoch=0, *, seed=3, loop=EpochBasedTrainLoop, workers=0, sampler_seed=None):
    """As much of one as the hook looks at."""
    dataset = Numbers()
    start = functools.partial(worker_init_fn, num_workers=workers, rank=0, seed=seed)
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=DefaultSampler(
            dataset, seed=seed if sampler_seed is None else sampler_seed
        ),
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=start if workers else None,
        collate_fn=list,
    )
    return SimpleNamespace(
        seed=seed, epoch=epoch, train_dataloader=loader, train_loop=loop.__new__(loop)
    )


def train(run, epochs):
    """What the data loader gives in these epochs, and a number the model draws."""
    hook = EpochSeedHook()
    hook.before_run(run)
    hook.before_train(run)
    seen = []
    for _ in range(epochs):
        run.train_dataloader.sampler.set_epoch(run.epoch)
        hook.before_train_epoch(run)
        seen.append([*run.train_dataloader, torch.rand(()).item()])
        run.epoch += 1
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_epoch_is_the_same_in_a_new_process(workers):
    whole = train(runner(workers=workers), 3)
    random.random(), np.random.rand(), torch.rand(5)
    assert train(runner(epoch=2, workers=workers), 1) == whole[2:]


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_and_seeds_differ(workers):
    drawn = train(runner(workers=workers), 3) + train(
        runner(seed=40, workers=workers), 1
    )
    numbers = [sample[1] for epoch in drawn for batch in epoch[:-1] for sample in batch]
    assert len(set(numbers)) == len(numbers)


def test_processes_draw_different_numbers(monkeypatch):
    first = train(runner(), 1)
    monkeypatch.setattr("odconv_det.plugin.hooks.seed.get_rank", lambda: 1)
    assert train(runner(), 1)[0][-1] != first[0][-1]


def test_a_run_without_a_configured_seed_shuffles_as_before_its_resume():
    resumed = runner(seed=8)  # drawn anew by the new process
    hook = EpochSeedHook()
    hook.before_run(resumed)
    resumed.seed = 3  # of the checkpoint
    hook.before_train(resumed)
    assert resumed.train_dataloader.sampler.seed == 3


def test_a_seed_of_the_samplers_own_stays():
    run = runner(sampler_seed=99)
    train(run, 1)
    assert run.train_dataloader.sampler.seed == 99


def test_loops_of_iterations_are_left_alone():
    run = runner(loop=IterBasedTrainLoop)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    EpochSeedHook().before_train_epoch(run)
    assert torch.equal(torch.rand(3), expected)
