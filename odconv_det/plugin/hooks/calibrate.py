"""Statistics for the BatchNorms that only an inflated backbone has."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from odconv_det.calibration import calibrate, inner_norms
from odconv_det.layers.arguments import at_least
from odconv_det.plugin.hooks.model import inner_model

__all__ = ["CalibrateHook"]


@HOOKS.register_module(force=True)
class CalibrateHook(Hook):
    """Calibrate the BatchNorms inside the dynamic layers of an inflated backbone.

    Before the first iteration, with images of the training data
    (:func:`odconv_det.calibrate`); random numbers stay as they were. A backbone whose
    file brought statistics, a resumed run and one that loads a checkpoint are left
    alone.

    Args:
        images: how many, in pairs, for each process.

    Raises:
        ValueError: if ``images`` is less than 2.
    """

    def __init__(self, images: int = 64) -> None:
        self.images = at_least(2, "images", images)

    def before_train(self, runner: Runner) -> None:
        """Run the backbone on some images."""
        model = inner_model(runner)
        backbone = getattr(model, "backbone", None)
        started = runner.iter > 0 or runner._load_from is not None
        if started or not getattr(backbone, "pretrained", False):
            return
        norms = inner_norms(backbone)
        if not norms or any(norm.num_batches_tracked for norm in norms):
            return
        print_log(f"calibrating {len(norms)} BatchNorms", "current")
        with _random_numbers_kept():
            pairs = _pairs(runner.train_dataloader, self.images)
            batches = (model.data_preprocessor(pair)["inputs"] for pair in pairs)
            seen = calibrate(backbone, batches)
        for norm in norms:  # each process has seen other images
            for statistic in (norm.running_mean, norm.running_var):
                all_reduce(statistic, "mean")
        print_log(
            f"calibrated {len(norms)} BatchNorms inside dynamic layers with {2 * seen} "
            "images",
            "current",
        )


def _pairs(loader: DataLoader, images: int) -> DataLoader:
    """Images of the loader's data set, other ones in each process.

    By a loader of its own: a sampler without an end cannot begin anew. As many in each,
    for SyncBatchNorm waits for all processes at every pair.
    """
    dataset = loader.dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    first = get_rank() % len(order)
    share = max(1, len(order) // get_world_size())
    own = order[first :: get_world_size()][: min(images, share)].tolist()
    if len(own) % 2:  # a single image has no variance
        own.append(own[0])
    return DataLoader(dataset, 2, sampler=own, collate_fn=loader.collate_fn)


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """What data loading draws in the block, training draws again."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    np.random.set_state(numbers)
