"""How MMEngine reads checkpoints once this plugin is imported: as data.

MMEngine 0.10.12 tries ``weights_only=True`` and, where that refuses a file, reads it in
the way that lets it run code; so it reads at once what it downloads, and 0.10.7 reads
everything so. Here every kind of address leads to :func:`load_checkpoint`, for all of
the process: ``load_from``, ``--resume``, ``init_cfg`` of any part, ``DetInferencer``.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_distributed
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from odconv_det.checkpoints import (
    CheckpointError,
    from_release,
    is_remote,
    locate,
    read_tensors,
    read_torch,
)
from odconv_det.checkpoints.errors import shown
from odconv_det.checkpoints.keys import check_names
from odconv_det.checkpoints.zoo import SCHEME
from odconv_det.plugin.errors import local_rank

__all__ = ["MMENGINE_SCHEMES", "load_checkpoint", "locate_once", "resume_errors"]

# Patterns of addresses that MMEngine registers loaders for; the empty one is a path.
MMENGINE_SCHEMES = (
    "",
    "http://",
    "https://",
    "modelzoo://",
    "torchvision://",
    "open-mmlab://",
    "openmmlab://",
    "mmcls://",
    "pavi://",
    r"(\S+\:)?s3://",
    r"(\S+\:)?petrel://",
)


@CheckpointLoader.register_scheme(prefixes=(SCHEME, *MMENGINE_SCHEMES), force=True)
def load_checkpoint(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What a checkpoint holds; without ``state_dict`` it is one itself.

    Args:
        filename: a path or an address that :func:`odconv_det.checkpoints.locate` knows.
        map_location: as of ``torch.load``, for trusted files; others are read to the
            CPU, from where MMEngine copies what it takes.

    Raises:
        CheckpointError: if the file is not there, broken, or would run code.
    """
    path = locate_once(filename)
    if filename.startswith(SCHEME):
        return {"state_dict": from_release(read_tensors(path))}
    if path.suffix == ".safetensors":
        return {"state_dict": read_tensors(path)}
    content = read_torch(path, map_location=map_location, make_history=HistoryBuffer)
    _check_kinds(content, path)
    # Runner.resume would execute this text, of MMDetection 2, as a Python config.
    content.get("meta", {}).pop("config", None)
    return content


def _check_kinds(content: Any, path: Path) -> None:
    """Raise CheckpointError where MMEngine would stumble over a part of the content."""
    parts = {"whole": content}
    if isinstance(content, dict):
        names = ("state_dict", "meta", "message_hub")
        parts |= {name: content[name] for name in names if name in content}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise CheckpointError(
                f"{path} is no checkpoint: its {name} is of the kind "
                f"{type(part).__name__}, not a dict: give the file of a training"
            )
    for key, value in parts.get("state_dict", {}).items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise CheckpointError(
                f"{path} is no checkpoint: {shown(key)} of its state_dict is no "
                "tensor with a name: give the file of a training"
            )
    check_names(parts.get("state_dict", parts["whole"]), path)


@contextmanager
def resume_errors() -> Iterator[None]:
    """Raise CheckpointError for what goes wrong while a run takes up a checkpoint.

    Any other error passes.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code is Runner.resume.__code__:
                raise CheckpointError(
                    f"{frame.f_locals['filename']} cannot be resumed "
                    f"({type(error).__name__}: {error}): go on with the config that it "
                    "was made with, or start from its weights with --cfg-options "
                    "load_from=FILE"
                ) from error
        raise


def locate_once(address: str) -> Path:
    """:func:`odconv_det.checkpoints.locate`; one process of each machine downloads."""
    if not (is_distributed() and is_remote(address)):
        return locate(address)
    try:
        if local_rank() == 0:
            return locate(address)
    finally:
        barrier()
    return locate(address, download=False)
