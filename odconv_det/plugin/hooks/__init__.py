"""Hooks for MMEngine's runner."""

from odconv_det.plugin.hooks.batch_size import BatchSizeHook
from odconv_det.plugin.hooks.calibrate import CalibrateHook
from odconv_det.plugin.hooks.checkpoint import SafeCheckpointHook
from odconv_det.plugin.hooks.fit import CheckFitHook
from odconv_det.plugin.hooks.fuse import FuseHook
from odconv_det.plugin.hooks.seed import EpochSeedHook

__all__ = [
    "BatchSizeHook",
    "CalibrateHook",
    "CheckFitHook",
    "EpochSeedHook",
    "FuseHook",
    "SafeCheckpointHook",
]
