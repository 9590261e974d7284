"""A hook that notes during a training run what its process holds."""

import json
from pathlib import Path

import psutil
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from tests.live import entries, live_tensors

__all__ = ["MemoryHook"]


@HOOKS.register_module()
class MemoryHook(Hook):
    """Append a line of JSON to ``memory.jsonl`` in the work dir now and then.

    Args:
        interval: in iterations.
    """

    priority = "LOWEST"  # after what else ends an iteration

    def __init__(self, interval: int) -> None:
        self.interval = interval

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Note tensors, entries, and resident bytes of this process and its workers."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        own = psutil.Process()
        tensors = live_tensors()  # first, for it collects what is to go
        sample = dict(
            iteration=runner.iter + 1,
            resident=own.memory_info().rss,
            workers=[one.memory_info().rss for one in own.children(recursive=True)],
            tensors=tensors,
            entries=entries(),
        )
        with open(Path(runner.work_dir) / "memory.jsonl", "a") as file:
            print(json.dumps(sample), file=file)
