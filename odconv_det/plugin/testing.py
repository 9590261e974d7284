"""Testing a detector as the command line asks for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmengine.config import Config

from odconv_det.plugin import cli, preflight
from odconv_det.plugin.building import config_errors
from odconv_det.plugin.errors import ToolError, one_line_errors
from odconv_det.plugin.hooks import CheckFitHook, FuseHook
from odconv_det.plugin.images import image_errors
from odconv_det.plugin.predictions import DumpWhole
from odconv_det.plugin.rehearsal import leaves, rehearse
from odconv_det.plugin.signals import end_when_stopped

__all__ = ["test"]


def test(args: argparse.Namespace) -> None:
    """Test with the flags of ``tools/test.py``; ends the process after an error."""
    with one_line_errors(), end_when_stopped("nothing was evaluated"):
        cfg = cli.load_config(args)
        preflight.check_sections(
            cfg, "model", "test_dataloader", "test_cfg", "test_evaluator"
        )
        if args.fuse and cfg.get("compile"):
            raise ToolError("--fuse and the config's compile exclude each other")
        if args.out:
            preflight.check_output(args.out, "--out")
        preflight.check_work_dir(cfg)
        cfg.load_from, cfg.resume = args.checkpoint, False
        preflight.check_data(cfg, "test_dataloader", "test_evaluator")
        preflight.check_weights(cfg)
        if args.show or args.show_dir:
            if not (cfg.get("default_hooks") or {}).get("visualization"):
                raise ToolError(
                    "--show and --show-dir need a painter: give the config "
                    "default_hooks.visualization=dict(type='DetVisualizationHook')"
                )
            cfg = trigger_visualization_hook(cfg, args)
        if args.tta:
            _use_tta(cfg)
        rehearse(cfg, "test")
        with config_errors(cfg), image_errors():
            runner = cli.build_runner(cfg)
            runner.register_hook(CheckFitHook())
            if args.fuse:
                runner.register_hook(FuseHook())
            if args.out:
                runner.test_evaluator.metrics.append(DumpWhole(args.out))
            runner.test()
        cli.leave_process_group()


def _use_tta(cfg: Config) -> None:
    """Predict with the config's tta_model and tta_pipeline, by default both mirrors."""
    if "mask_head" in cfg.model.get("roi_head", {}):
        raise ToolError("--tta merges boxes only; this detector also predicts masks")
    for dataset in leaves(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.get("tta_pipeline") or _mirrored(dataset.pipeline)
    nms = dict(type="nms", iou_threshold=0.5)
    default = dict(type="DetTTAModel", tta_cfg=dict(nms=nms, max_per_img=100))
    cfg.model = dict(cfg.get("tta_model", default), module=cfg.model)


def _mirrored(pipeline: Sequence[dict]) -> list[dict]:
    """The steps of a test, whose last one packs, for an image and its mirror image."""
    *steps, pack = deepcopy(pipeline)
    if "meta_keys" in pack:  # by default they tell a mirror image
        pack["meta_keys"] = (*pack["meta_keys"], "flip", "flip_direction")
    mirrors = [dict(type="RandomFlip", prob=prob) for prob in (1.0, 0.0)]
    return [*steps, dict(type="TestTimeAug", transforms=[mirrors, [pack]])]
