"""Random numbers that a resumed run draws as an uninterrupted one would."""

from __future__ import annotations

import functools
import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

__all__ = ["EpochSeedHook"]


@HOOKS.register_module(force=True)
class EpochSeedHook(Hook):
    """Seed each epoch of training from the run's seed and the epoch's number.

    MMEngine's checkpoints hold no state of the random number generators. With this hook
    an epoch depends on what it starts from and on its number alone, so a run that is
    resumed at an epoch's beginning ends with the weights that it would have ended with.
    Processes of a distributed run draw different numbers. Loops that count iterations
    are left alone.
    """

    priority = "VERY_HIGH"  # before hooks that draw numbers

    def __init__(self) -> None:
        self._first_seed: int | None = None

    def before_run(self, runner: Runner) -> None:
        """Remember the seed with which the data loaders were built."""
        self._first_seed = runner.seed

    def before_train(self, runner: Runner) -> None:
        """Shuffle as the resumed run did, where no seed was configured."""
        sampler = getattr(runner.train_dataloader, "sampler", None)
        if getattr(sampler, "seed", None) == self._first_seed:
            sampler.seed = runner.seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed this process, and the worker processes that it starts."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        # Rank and epoch at their own distances, so that their streams do not meet.
        seed = (runner.seed + 10_007 * get_rank() + 1_000_003 * runner.epoch) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        _renew_workers(runner.train_dataloader, seed)


def _renew_workers(loader: DataLoader, seed: int) -> None:
    # Persistent workers would go on with their generators, which a new process cannot.
    loader._iterator = None
    start = loader.worker_init_fn
    if isinstance(start, functools.partial) and "seed" in start.keywords:
        loader.worker_init_fn = functools.partial(start, seed=seed)
