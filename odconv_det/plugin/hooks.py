"""Hooks for MMEngine's runner."""

from __future__ import annotations

import copy
import itertools

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from odconv_det.calibration import calibrate, inner_norms
from odconv_det.fusion import fuse

__all__ = ["CalibrateHook", "FuseHook"]


@HOOKS.register_module(force=True)
class CalibrateHook(Hook):
    """Calibrate the BatchNorms inside the dynamic layers of an inflated backbone.

    Before the first iteration, with images of the train data loader
    (:func:`odconv_det.calibrate`). A run that starts from other weights, is resumed or
    loads a checkpoint is left alone.

    Args:
        batches: how many.
    """

    priority = "VERY_HIGH"  # before hooks that copy the weights, such as EMA

    def __init__(self, batches: int = 32) -> None:
        self.batches = batches

    def before_train(self, runner: Runner) -> None:
        """Run the backbone on some batches."""
        model = _inner(runner)
        backbone = getattr(model, "backbone", None)
        started = runner.iter > 0 or runner._load_from is not None
        if started or not getattr(backbone, "inflated", False):
            return
        loader = itertools.islice(runner.train_dataloader, self.batches)
        images = (model.data_preprocessor(data)["inputs"] for data in loader)
        norms = calibrate(backbone, images)
        for norm in inner_norms(backbone):  # each process has seen other images
            for statistic in (norm.running_mean, norm.running_var):
                all_reduce(statistic, "mean")
        if norms:
            print_log(
                f"calibrated {norms} BatchNorms inside dynamic layers with "
                f"{self.batches} batches",
                logger="current",
            )


@HOOKS.register_module(force=True)
class FuseHook(Hook):
    """Test with a fused copy of the model; the model itself is there again afterwards.

    ``custom_hooks = [dict(type="FuseHook")]``, or ``--fuse`` of ``tools/test.py``.
    """

    priority = "LOWEST"  # after hooks that change the weights to test, such as EMA

    def __init__(self) -> None:
        self._original: nn.Module | None = None

    def before_test_epoch(self, runner: Runner) -> None:
        """Put the fused copy in the model's place."""
        self._original = _inner(runner)
        fused = fuse(copy.deepcopy(self._original).eval())
        print_log("testing with the fused model", logger="current")
        _replace(runner, fused)

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Put the model back."""
        if self._original is not None:
            _replace(runner, self._original)
            self._original = None


def _inner(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _replace(runner: Runner, model: nn.Module) -> None:
    if is_model_wrapper(runner.model):
        runner.model.module = model
    else:
        runner.model = model
