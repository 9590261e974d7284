"""What a process holds, and a hook that notes it during a training run."""

import gc
import json
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import psutil
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

__all__ = ["MemoryHook", "entries", "live_tensors"]

CONTAINERS = {dict, list, set, OrderedDict, defaultdict, deque}


def live_tensors() -> int:
    """How many tensors Python knows."""
    # By type: `isinstance` would wake lazy objects that answer with a __class__.
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def entries() -> int:
    """How many entries all containers of the process have together."""
    known = gc.get_objects()
    # The collector does not list a dict of numbers and strings; its owner knows it.
    dicts = (o for o in gc.get_referents(*known) if type(o) is dict)
    hidden = {id(o): o for o in dicts if not gc.is_tracked(o)}
    listed = (o for o in known if type(o) in CONTAINERS and o is not known)
    return sum(map(len, listed)) + sum(map(len, hidden.values()))


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
        gc.collect()
        sample = dict(
            iteration=runner.iter + 1,
            resident=own.memory_info().rss,
            workers=[one.memory_info().rss for one in own.children(recursive=True)],
            tensors=live_tensors(),
            entries=entries(),
        )
        with open(Path(runner.work_dir) / "memory.jsonl", "a") as file:
            print(json.dumps(sample), file=file)
