"""Test with the fused form."""

from __future__ import annotations

import copy

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from odconv_det.fusion import fuse
from odconv_det.plugin.hooks.model import inner_model, replace_model

__all__ = ["FuseHook"]


@HOOKS.register_module(force=True)
class FuseHook(Hook):
    """Test with a fused copy of the model; the model itself is there again afterwards.

    As one of a config's ``custom_hooks``, or by ``--fuse`` of ``tools/test.py``.
    """

    priority = "LOWEST"  # after hooks that change the weights to test, such as EMA

    def __init__(self) -> None:
        self._original: nn.Module | None = None

    def before_test_epoch(self, runner: Runner) -> None:
        """Put the fused copy in the model's place."""
        self._original = inner_model(runner)
        fused = fuse(copy.deepcopy(self._original).eval())
        print_log("testing with the fused model", logger="current")
        replace_model(runner, fused)

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Put the model back."""
        if self._original is not None:
            replace_model(runner, self._original)
            self._original = None
