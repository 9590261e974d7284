"""What tools/train.py and tools/test.py share: flags, config, building the runner."""

import argparse
import os
from pathlib import Path

import torch.distributed
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from odconv_det.checkpoints import add_trust_argument
from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.preflight import check_file, check_sync_norm

__all__ = [
    "add_arguments",
    "build_runner",
    "leave_process_group",
    "load_config",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing have in common."""
    parser.add_argument("--work-dir", help="where logs, checkpoints and results go")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help='change the config, for example train_cfg.max_epochs=1 or key="[(1,2)]"',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started the processes of a distributed run",
    )
    add_trust_argument(parser)
    # Launchers before torchrun pass the rank as a flag, in either spelling.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply --launcher, --cfg-options and --work-dir to it."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    check_file(args.config, "config file")
    try:
        cfg = Config.fromfile(args.config)
    except Exception as error:  # a config is a program, which can fail in any way
        raise ToolError(f"{args.config} cannot be read: {error}") from error
    cfg.launcher = args.launcher
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    default = os.path.join("work_dirs", Path(args.config).stem)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or default
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the runner the config asks for; distributed runs on a CPU use gloo."""
    if cfg.launcher != "none" and get_device() == "cpu":
        _use_gloo(cfg)
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)


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
