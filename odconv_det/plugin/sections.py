"""The parts of a config before any is built: which go together, and of what kind."""

import os
from collections.abc import Mapping

from mmengine.config import Config

from odconv_det.plugin.errors import ToolError

__all__ = ["check_groups", "check_kinds", "check_launcher", "listed"]

_GROUPS = (
    ("train_dataloader", "train_cfg", "optim_wrapper"),
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)
_LISTS = ("val_evaluator", "test_evaluator", "custom_hooks")
_DICTS = ("model", "default_hooks", "auto_scale_lr")
_DICTS += ("randomness", "env_cfg", "model_wrapper_cfg")
_DICTS += tuple(name for group in _GROUPS for name in group if name not in _LISTS)
_PLAIN = (str, int, float, list, tuple)  # and never an object that was built already
# What the processes of a launcher find in their environment.
_RANKS = {"pytorch": "RANK", "slurm": "SLURM_PROCID"}


def check_groups(cfg: Config) -> None:
    """Raise ToolError if a loop has some of its three parts and lacks others."""
    for group in _GROUPS:
        lost = [name for name in group if cfg.get(name) is None]
        if 0 < len(lost) < len(group):
            there = [name for name in group if name not in lost]
            raise ToolError(
                f"the config has {' and '.join(there)} but no {' and no '.join(lost)}: "
                "the three go together, give all or set all to None"
            )


def check_kinds(cfg: Config) -> None:
    """Raise ToolError for a value where a part, or a list of them, belongs."""
    for name in _DICTS:
        if isinstance(value := cfg.get(name), _PLAIN):
            raise ToolError(f"{name} is {value!r}: write {name}=dict(...)")
    hooks = cfg.get("default_hooks") or {}
    sections = {name: listed(cfg.get(name)) for name in _LISTS}
    for name, values in {**sections, "default_hooks": list(hooks.values())}.items():
        for one in values:
            if isinstance(one, _PLAIN):
                raise ToolError(f"{name} has {one!r}: write dict(type=...) for it")
    if isinstance(cfg.get("custom_hooks"), Mapping):
        raise ToolError("custom_hooks is one dict: write a list, [dict(type=...)]")
    for name in ("load_from", "work_dir"):
        if not isinstance(value := cfg.get(name), str | None):
            raise ToolError(f"{name} is {value!r}: write a path")
    for word in ("max_epochs", "max_iters"):
        length = (cfg.get("train_cfg") or {}).get(word, 1)
        if not isinstance(length, int) or length < 1:
            raise ToolError(f"train_cfg.{word} is {length!r}: write a number from 1 on")
    seed = (cfg.get("randomness") or {}).get("seed")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise ToolError(f"randomness.seed is {seed!r}: write one from 0 to {2**32 - 1}")
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size", 1)
    if not isinstance(base, int) or base < 1:
        raise ToolError(
            f"auto_scale_lr.base_batch_size is {base!r}: write the number of images "
            "that the learning rate is for"
        )


def check_launcher(cfg: Config) -> None:
    """Raise ToolError for a process that its launcher did not start."""
    name = cfg.get("launcher")
    if name in _RANKS and _RANKS[name] not in os.environ:
        raise ToolError(
            f"--launcher {name} is for processes that a launcher starts: use "
            "tools/dist_train.sh, tools/dist_test.sh or tools/slurm_train.sh, or leave "
            "it out for one process"
        )


def listed(value: object) -> list:
    """The parts of a section that may be one or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
