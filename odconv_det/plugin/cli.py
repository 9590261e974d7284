"""What training and testing by the tools share: reading configs, building runners."""

import argparse
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from odconv_det.plugin.building import suggestion
from odconv_det.plugin.errors import NO_ROOM, ToolError, local_rank
from odconv_det.plugin.preflight import check_file, check_sync_norm

__all__ = [
    "build_runner",
    "leave_process_group",
    "load_config",
    "read_config",
]


_WEIGHTS = (".pth", ".pt", ".tar", ".safetensors")

# What Runner.from_cfg and MMDetection's tools read beside the runner's own arguments.
_READ = ("auto_scale_lr", "compile", "find_unused_parameters", "tta_model")
_READ += ("runner_type", "tta_pipeline", "custom_imports", "activation_checkpointing")


# Sections that a config need not have, each of which the runner reads as it stands.
_SECTIONS = ("randomness", "env_cfg", "model_wrapper_cfg", "default_hooks", "compile")


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply --launcher, --cfg-options and --work-dir to it."""
    if args.launcher == "pytorch":  # the others say it in variables of their own
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = read_config(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options:
        _change(cfg, args.cfg_options)
    default = os.path.join("work_dirs", Path(args.config).stem)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or default
    return cfg


def read_config(path: str) -> Config:
    """The config of a file.

    Raises:
        ToolError: if it is not there or cannot be read.
    """
    check_file(path, "config file", "give the path of one")
    if Path(path).suffix in _WEIGHTS:
        raise ToolError(f"{path} is no config: the config comes before the checkpoint")
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is a program, which can fail in any way
        if _is_out_of_room(error):
            raise ToolError(
                f"{path} cannot be read: no temporary folder has room for a copy of "
                "it; make some, or set TMPDIR to another folder"
            ) from error
        if "Failed to import custom modules" in str(error):
            reason = error.__cause__.__context__ or error.__cause__
            raise ToolError(
                f"{path} cannot be read (custom_imports: {reason}): mend the name, or "
                "set PYTHONPATH to the folder that has it"
            ) from error
        raise ToolError(f"{path} cannot be read ({error}): mend the config") from error


def _is_out_of_room(error: BaseException | None) -> bool:
    """Whether this, or what was on its way before, is about a full disk.

    MMEngine copies a config to a temporary folder, and stumbles once more where Python
    finds none that can be written to.
    """
    if error is None:
        return False
    full = isinstance(error, OSError) and error.errno in NO_ROOM
    none = "No usable temporary directory" in str(error)
    return full or none or _is_out_of_room(error.__context__)


def _change(cfg: Config, options: Mapping[str, Any]) -> None:
    """Apply --cfg-options; a section that no run reads is a mistake.

    MMEngine would add it without a word.
    """
    for key in options:
        first, _, rest = key.partition(".")
        known = {*cfg, *(_SECTIONS if rest else _top_level_words())}
        if first not in known:
            raise ToolError(
                f"--cfg-options {key}: the config has no {first}"
                f"{suggestion(first, known) or ', and no run reads it'}"
            )
        if first in cfg:
            _check_place(cfg, key)
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError) as error:
        raise ToolError(f"--cfg-options: {error}") from error


def _top_level_words() -> set[str]:
    return {*inspect.signature(Runner.__init__).parameters, *_READ} - {"self"}


def _check_place(cfg: Config, key: str) -> None:
    """Raise ToolError if the part that a dotted key is to change is not there."""
    part: Any = cfg
    *places, _ = key.split(".")
    for place in places:
        if isinstance(part, Mapping | Config) and place in part:
            part = part[place]
        elif isinstance(part, list | tuple) and place.isdecimal():
            if int(place) >= len(part):
                raise ToolError(
                    f"--cfg-options {key}: the list has {len(part)} items, counted "
                    "from 0"
                )
            part = part[int(place)]
        elif isinstance(part, Mapping | Config | list | tuple):
            known = () if isinstance(part, list | tuple) else list(map(str, part))
            meant = suggestion(place, known)
            if "type" in part and not meant:
                return  # an argument, of which its class says whether there is one
            raise ToolError(
                f"--cfg-options {key}: there is no {place}"
                f"{meant or '; see the config for what there is'}"
            )
        else:  # a value that becomes a section
            return


def build_runner(cfg: Config) -> Runner:
    """Build the runner the config asks for; distributed runs on a CPU use gloo."""
    if cfg.launcher != "none" and get_device() == "cpu":
        _use_gloo(cfg)
    if cfg.launcher == "pytorch" and get_device() == "cuda":
        _check_gpus()
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)


def _check_gpus() -> None:
    """Raise ToolError for more processes than GPUs, each of which takes its own."""
    if local_rank() >= torch.cuda.device_count():
        raise ToolError(
            f"there is no GPU for process {local_rank()} of this machine, which has "
            f"{torch.cuda.device_count()}: start one process for each"
        )


def _use_gloo(cfg: Config) -> None:
    # mmengine would select a GPU first and hand its number to the model's wrapper.
    if cfg.launcher != "pytorch":
        raise ToolError(
            f"--launcher {cfg.launcher} needs GPUs; on a CPU start the processes with "
            "tools/dist_train.sh or tools/dist_test.sh"
        )
    check_sync_norm(cfg)
    torch.distributed.init_process_group("gloo")
    wrapper = cfg.get("model_wrapper_cfg") or dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)


def leave_process_group() -> None:
    """End a distributed run in order: all processes together, their threads first.

    mmengine leaves the group to the interpreter's exit, where a thread of gloo's that
    still runs now and then aborts a process that had done all its work.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
