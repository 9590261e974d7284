"""Hooks for MMEngine's runner."""

from odconv_det.plugin.hooks.batch_size import BatchSizeHook
from odconv_det.plugin.hooks.calibrate import CalibrateHook
from odconv_det.plugin.hooks.fuse import FuseHook

__all__ = ["BatchSizeHook", "CalibrateHook", "FuseHook"]
