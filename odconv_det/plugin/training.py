"""Training a detector as the command line asks for it."""

from __future__ import annotations

import argparse

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from odconv_det.plugin import cli, preflight
from odconv_det.plugin.building import config_errors
from odconv_det.plugin.errors import ToolError, local_rank, one_line_errors
from odconv_det.plugin.hooks import CheckFitHook
from odconv_det.plugin.images import image_errors
from odconv_det.plugin.loading import resume_errors
from odconv_det.plugin.rehearsal import rehearse
from odconv_det.plugin.saved import latest, names_of, pointer
from odconv_det.plugin.signals import end_when_stopped

__all__ = ["train"]

_GO_ON = "the same command with --resume goes on from the last checkpoint, if any"


def train(args: argparse.Namespace) -> None:
    """Train with the flags of ``tools/train.py``; ends the process after an error."""
    with one_line_errors("go on with --resume"), end_when_stopped(_GO_ON):
        cfg = cli.load_config(args)
        preflight.check_sections(
            cfg, "model", "train_dataloader", "train_cfg", "optim_wrapper"
        )
        _apply_flags(cfg, args)
        preflight.check_work_dir(cfg)
        preflight.check_data(cfg, "train_dataloader", "val_dataloader", "val_evaluator")
        preflight.check_weights(cfg)
        rehearse(cfg, "train", "val")
        with config_errors(cfg), image_errors():
            runner = cli.build_runner(cfg)
            runner.register_hook(CheckFitHook(start=True))
            with resume_errors():
                runner.train()
        cli.leave_process_group()


def _apply_flags(cfg: Config, args: argparse.Namespace) -> None:
    if args.amp:
        if get_device() == "cpu":
            raise ToolError("--amp needs a GPU; leave it out to train on the CPU")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"
    if args.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise ToolError(
                f"--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size: "
                "set it to the batch size that the learning rate is for"
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        _resume(cfg, args.resume)


def _resume(cfg: Config, checkpoint: str) -> None:
    """Go on from a checkpoint; with ``auto`` from the latest one.

    A run that was killed before it saved any starts as its config says.
    """
    if not checkpoint:
        raise ToolError(
            "--resume '' names no checkpoint (a variable that is not set?): name one, "
            "or leave the value out for the latest"
        )
    if checkpoint == "auto":
        checkpoint = None
        if pointer(cfg.work_dir) is None:
            found = latest(*names_of(cfg))
            if local_rank() == 0:
                print_log(
                    f"{cfg.work_dir} has no last_checkpoint: going on from {found}"
                    if found
                    else f"{cfg.work_dir} has no checkpoint yet: starting afresh"
                )
            if found is None:
                return
            checkpoint = str(found)
    cfg.resume, cfg.load_from = True, checkpoint
