"""How MMEngine reads checkpoints once this plugin is imported: as data.

MMEngine 0.10.12 tries ``weights_only=True`` and, where that refuses a file, reads it in
the way that lets it run code; so it reads at once what it downloads, and 0.10.7 reads
everything so. Here every kind of address leads to :func:`load_checkpoint`, for all of
the process: ``load_from``, ``--resume``, ``init_cfg`` of any part, ``DetInferencer``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_distributed
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from odconv_det.checkpoints import (
    from_release,
    is_remote,
    locate,
    read_tensors,
    read_torch,
)
from odconv_det.checkpoints.zoo import SCHEME
from odconv_det.plugin.errors import local_rank

__all__ = ["MMENGINE_SCHEMES", "load_checkpoint", "locate_once"]

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
        map_location: as of ``torch.load``.

    Raises:
        CheckpointError: if the file is not there, broken, or would run code.
    """
    path = locate_once(filename)
    if filename.startswith(SCHEME):
        return {"state_dict": from_release(read_tensors(path))}
    if path.suffix == ".safetensors":
        return {"state_dict": read_tensors(path)}
    content = read_torch(path, map_location=map_location, make_history=HistoryBuffer)
    if isinstance(content, dict) and isinstance(content.get("meta"), dict):
        # Runner.resume would execute this text, of MMDetection 2, as a Python config.
        content["meta"].pop("config", None)
    return content


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
