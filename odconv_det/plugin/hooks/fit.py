"""A checkpoint must fit the model that it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.models.detectors import SemiBaseDetector
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor

from odconv_det.checkpoints import CheckpointError, bad_values, mismatch, under
from odconv_det.plugin.hooks.model import inner_model

__all__ = ["CheckFitHook"]

_BACKBONE, _NECK = "backbone.", "neck."
_COUNTER = "num_batches_tracked"  # old files lack it, and nothing computes with it


class CheckFitHook(Hook):
    """Raise CheckpointError for a checkpoint that MMEngine would load in part.

    MMEngine loads what fits, warns of the rest in the log and goes on with random
    weights. Here a run that tests or resumes needs every tensor; to test, a whole head
    of the file may be left over, such as that of masks for boxes. One that starts from
    another run (``load_from``) needs every tensor of the backbone, and a neck of the
    same width; other parts may be new, or made for other classes.

    A semi-supervised detector, which takes one detector's file as its teacher and its
    student, is compared only when it resumes.

    Args:
        start: whether a new training starts from the checkpoint.
    """

    # Before EMAHook, which loads its own part of the file as soon as it is read.
    priority = "VERY_HIGH"

    def __init__(self, *, start: bool = False) -> None:
        self.start = start

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare, before anything is loaded."""
        file = runner._load_from or find_latest_checkpoint(runner.work_dir)
        if runner._resume:
            _check_progress(checkpoint, file)
        model = inner_model(runner)
        if isinstance(model, BaseTTAModel):
            model = model.module
        if isinstance(model, SemiBaseDetector) and not runner._resume:
            return
        own = model.state_dict()
        given = checkpoint.get("state_dict", checkpoint)
        given = {key.removeprefix("module."): value for key, value in given.items()}
        # Of EMAHook, which a resumed run goes on with.
        averaged = checkpoint.get("ema_state_dict", {})
        averaged = {key.removeprefix("module."): t for key, t in averaged.items()}
        own = {k: v for k, v in own.items() if k in given or not k.endswith(_COUNTER)}
        if runner._resume:
            difference = mismatch(own, given)
        elif self.start:
            difference = _unfit_start(own, given)
        else:
            difference = mismatch(own, _of_parts(own, given))
        difference = difference or bad_values(_alike(own, averaged), averaged)
        if difference:
            raise CheckpointError(
                f"{file} does not fit {type(model).__name__} of the config: "
                f"{difference}; take the config that it was made with, or another file"
            )


def _of_parts(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Those of the parts that the detector has too, such as ``roi_head.bbox_head``."""
    parts = {tuple(key.split(".")[:2]) for key in own}
    return {
        key: tensor
        for key, tensor in given.items()
        if key.startswith(_BACKBONE) or tuple(key.split(".")[:2]) in parts
    }


def _unfit_start(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """What of a detector cannot start another one."""
    backbone = under(own, _BACKBONE)
    weights = under(given, _BACKBONE)
    if not backbone:  # a tracker, say, has its detector in a part
        return None
    if not weights:
        return (
            "it holds no backbone (ImageNet weights belong into "
            "model.backbone.init_cfg, not into load_from)"
        )
    if difference := mismatch(backbone, weights):
        return f"backbone: {difference}"
    # More than the heads is made for the classes, such as the queries of DINO.
    shared = {
        key: tensor
        for key, tensor in own.items()
        if key in given and key.startswith(_NECK)
    }
    difference = mismatch(shared, {key: given[key] for key in shared})
    return difference or bad_values(_alike(own, given), given)


def _alike(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What MMEngine would load: the tensors whose shape is that of the given ones."""
    return {k: t for k, t in own.items() if k in given and given[k].shape == t.shape}


def _check_progress(checkpoint: Mapping[str, Any], file: str) -> None:
    if "epoch" not in checkpoint.get("meta", {}) or "optimizer" not in checkpoint:
        raise CheckpointError(
            f"{file} holds weights, and not where its training was: start from it "
            "with --cfg-options load_from=FILE instead of --resume"
        )
