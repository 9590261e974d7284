"""The learning rate of a run that goes on with another number of images."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner

__all__ = ["BatchSizeHook"]

_KEY = "images_per_iteration"


@HOOKS.register_module(force=True)
class BatchSizeHook(Hook):
    """Look after the learning rate where a resumed run has another batch size.

    A resumed run takes its learning rates from the checkpoint, whatever the config and
    ``--auto-scale-lr`` say. With ``auto_scale_lr.enable`` the hook makes them those
    that this flag gives a first run; without, it warns if an iteration has more or
    fewer images than before, all processes together. It says nothing where nothing
    changed. A schedule with learning rates of its own (``eta_min``, ``eta_max``,
    ``min_value``), which the flag does not scale, is named in a warning: its values
    between those differ from a first run's. The checkpoint of a run without this hook
    does not say what its learning rate is for: that goes on as it is, with a warning if
    it was to be scaled.
    """

    def __init__(self) -> None:
        self._resumed = False
        self._before: dict[str, int] | None = None
        self._suited: int | None = None  # how many images the learning rate is for

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remember what the run had that goes on."""
        self._resumed = runner._resume
        if self._resumed:
            before = checkpoint.get("meta", {}).get(_KEY)
            if isinstance(before, dict) and {"processes", "images", "suited"} <= set(
                before
            ):
                self._before = before

    def before_train(self, runner: Runner) -> None:
        """Compare, and scale the learning rates or warn."""
        settings = runner.cfg.get("auto_scale_lr") or {}
        enabled = settings.get("enable", False)
        images = _processes_and_images(runner)
        total = images["processes"] * images["images"]
        base = settings.get("base_batch_size", total)
        before = self._before
        if self._resumed and before is None:
            if enabled:
                print_log(
                    "the checkpoint does not say for how many images its learning rate "
                    "is: it goes on unchanged; for another one start from the file "
                    "with load_from instead",
                    "current",
                    logging.WARNING,
                )
            return
        self._suited = total if enabled else before["suited"] if before else base
        if before is None:
            return
        if enabled and total != before["suited"]:
            factor = total / before["suited"]
            _scale(runner, factor)
            print_log(
                f"the resumed learning rate was that of {before['suited']} images an "
                f"iteration and is scaled by {factor:g} for {total}",
                "current",
            )
            if names := _with_own_rates(runner):
                print_log(
                    f"{', '.join(names)} has learning rates of its own, which are not "
                    "scaled: this run's differ from those of a first run with "
                    "--auto-scale-lr",
                    "current",
                    logging.WARNING,
                )
        previous = before["processes"] * before["images"]
        if not enabled and total != previous:
            print_log(
                f"resumed with {_spell(images)} an iteration, the run had "
                f"{_spell(before)}: its learning rate goes on unchanged; pass "
                "--auto-scale-lr to scale it",
                "current",
                logging.WARNING,
            )

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Write what :meth:`before_train` compares."""
        if self._suited is not None:
            entry = _processes_and_images(runner)
            checkpoint["meta"][_KEY] = dict(entry, suited=self._suited)


def _processes_and_images(runner: Runner) -> dict[str, int]:
    """How many processes there are, and images in an iteration of each."""
    loader = runner.cfg.get("train_dataloader")
    images = loader.get("batch_size", 1) if isinstance(loader, dict) else 1
    return dict(processes=runner.world_size, images=images)


def _spell(entry: dict[str, int]) -> str:
    processes, images = entry["processes"], entry["images"]
    return f"{processes * images} images ({processes} x {images})"


def _with_own_rates(runner: Runner) -> list[str]:
    """Schedules that go from or to a learning rate that the config names."""
    own = ("eta_min", "eta_max", "min_values")
    return [
        type(one).__name__
        for one in runner.param_schedulers or []
        if one.param_name == "lr" and any(_is_set(getattr(one, k, 0)) for k in own)
    ]


def _is_set(value: Any) -> bool:
    return any(value) if isinstance(value, list) else bool(value)


def _scale(runner: Runner, factor: float) -> None:
    """Multiply the learning rates, and what their schedules start from."""
    if isinstance(runner.optim_wrapper, OptimWrapperDict):
        print_log("learning rates of several optimizers are not scaled", "current")
        return
    for group in runner.optim_wrapper.param_groups:
        for key in ("lr", "initial_lr"):
            if key in group:
                group[key] *= factor
    for scheduler in runner.param_schedulers or []:
        if scheduler.param_name == "lr" and hasattr(scheduler, "base_values"):
            scheduler.base_values = [factor * v for v in scheduler.base_values]
