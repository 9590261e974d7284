"""What tools/train.py and tools/test.py share: flags, checks, building the runner.

Everything a person can get wrong on the command line is checked before the runner is
built, and ends in one line that says what to do.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed
from mmdet.registry import MODELS
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from odconv_det.checkpoints import CheckpointError, is_torch_file
from odconv_det.plugin.pretrained import StrictPretrained, is_pretrained

__all__ = [
    "ToolError",
    "add_arguments",
    "build_runner",
    "check_data",
    "check_file",
    "check_weights",
    "leave_process_group",
    "load_config",
    "one_line_errors",
]


class ToolError(Exception):
    """A line for the person at the command line: what is wrong and what to do."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn ToolError and CheckpointError into `error: ...` and exit status 2."""
    try:
        yield
    except (ToolError, CheckpointError) as error:
        # The processes of one machine fail together. The first one reports; launchers
        # end the others as soon as it is gone, well within these seconds.
        if _local_rank() > 0:
            time.sleep(10)
        print("error:", " ".join(str(error).split()), file=sys.stderr, flush=True)
        raise SystemExit(2) from None


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


def check_file(path: str, role: str, advice: str = "") -> None:
    """Raise ToolError if `path` is a local path without a file."""
    if "://" not in path and not os.path.isfile(os.path.expanduser(path)):
        raise ToolError(f"no {role} {path}{advice and '; '}{advice}")


def check_data(cfg: Config, *sections: str) -> None:
    """Raise ToolError if files that these sections of the config name are missing.

    A section is a dataloader or an evaluator; wrappers of data sets may nest freely.
    """
    paths = dict.fromkeys(
        path for name in sections for path in _data_paths(cfg.get(name))
    )
    missing = [path for path in paths if _missing(path)]
    if missing:
        raise ToolError(
            f"missing data: {', '.join(missing)}; put or link the data set there, or "
            "set data_root, ann_file and data_prefix in the config (relative paths "
            f"start at {os.getcwd()})"
        )


def check_weights(cfg: Config) -> None:
    """Raise ToolError if the checkpoint or ImageNet file to start from is missing.

    A checkpoint replaces every ImageNet file, so with one those that are missing are
    taken out of the config of MMDetection's own backbones, which would insist on them.
    """
    start = cfg.get("load_from")
    if start:
        check_file(start, "checkpoint", "name the file of an earlier run")
    elif cfg.get("resume") and Path(cfg.work_dir, "last_checkpoint").is_file():
        start = find_latest_checkpoint(cfg.work_dir)
        advice = f"{cfg.work_dir}/last_checkpoint names it: pass --resume FILE instead"
        check_file(start, "checkpoint", advice)
    if start and "://" not in start and not is_torch_file(os.path.expanduser(start)):
        raise ToolError(f"checkpoint {start} is no whole torch file: get it once more")
    for part, path in _pretrained_parts(cfg.model):
        if not start:
            advice = (
                "put it there (tools/convert_official.py writes it from the authors' "
                "file) or train from scratch with init_cfg=None"
            )
            check_file(path, "ImageNet weights", advice)
        elif _missing(os.path.expanduser(path)) and not _is_strict(part):
            part.pop("pretrained", None)
            part["init_cfg"] = None
            if _local_rank() == 0:
                print_log(f"{path} is missing and not needed: starting from {start}")


def _pretrained_parts(model: object) -> Iterator[tuple[dict, str]]:
    """The parts of a model that start from a file, and its path."""
    for part in _dicts(model):
        inits = part.get("init_cfg")
        for init in inits if isinstance(inits, (list, tuple)) else [inits]:
            if isinstance(init, dict) and is_pretrained(init):
                yield part, str(init.get("checkpoint"))
        if isinstance(part.get("pretrained"), str):
            yield part, part["pretrained"]


def _is_strict(part: dict) -> bool:
    """Whether this is a backbone of ours, which itself waits for a checkpoint."""
    kind = part.get("type")
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(cls, type) and issubclass(cls, StrictPretrained)


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


def _local_rank() -> int:
    names = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def _missing(path: str) -> bool:
    """Whether `path` is local and nothing is there; remote ones are not looked up."""
    return "://" not in path and not os.path.exists(path)


def _dicts(node: object) -> Iterator[dict]:
    """Every dict in a tree of dicts, lists and tuples, outermost first."""
    if isinstance(node, dict):
        yield node
    elif not isinstance(node, (list, tuple)):
        return
    for child in node.values() if isinstance(node, dict) else node:
        yield from _dicts(child)


def _data_paths(section: object) -> Iterator[str]:
    for part in _dicts(section):
        storage = part.get("backend_args") or {}
        if storage.get("backend", "local") != "local":
            continue
        root = part.get("data_root") or ""
        prefixes = part.get("data_prefix") or {}
        for path in (part.get("ann_file"), *prefixes.values()):
            if path:
                yield os.path.join(root, path)
