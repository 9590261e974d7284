"""What is wrong with a dataloader, before it is built."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader

from odconv_det.plugin.building import suggestion
from odconv_det.plugin.errors import ToolError

__all__ = ["check_batches", "check_words"]

# What MMEngine takes out before it builds torch's.
_OWN = {"num_batch_per_epoch", "disable_subprocess_warning"}


def check_words(loader: Mapping[str, Any], place: str) -> None:
    """Raise ToolError for arguments that no dataloader has, and sizes that are none."""
    known = {*inspect.signature(DataLoader).parameters, *_OWN}
    for word in loader:
        if word not in known:
            raise ToolError(
                f"{place}: there is no argument {word}"
                f"{suggestion(word, known) or ': leave it out'}"
            )
    size = loader.get("batch_size", 1)
    if not isinstance(size, int) or size < 1:
        raise ToolError(f"{place}.batch_size is {size!r}: write a number from 1 on")


def check_batches(loader: Mapping[str, Any], images: int, place: str) -> None:
    """Raise ToolError if this number of images does not make a single batch."""
    size = loader.get("batch_size", 1)
    drops = loader.get("drop_last") or (loader.get("batch_sampler") or {}).get(
        "drop_last"
    )
    if drops and isinstance(size, int) and size > images:
        raise ToolError(
            f"{place} has {images} images and batches of {size}, of which drop_last "
            "leaves none: lower batch_size, or set drop_last=False"
        )
