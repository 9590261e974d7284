"""Images that cannot be read, met in the middle of a run."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mmcv.transforms import LoadImageFromFile

from odconv_det.plugin.errors import ToolError

__all__ = ["image_errors"]

_LOADER = LoadImageFromFile.transform.__code__
_NAMED = re.compile(
    r"(?:failed to load image: |No such file or directory: ')(.+?)'?\s*$"
)


@contextmanager
def image_errors() -> Iterator[None]:
    """Raise ToolError for an image that MMCV's loader cannot read.

    In this process or in one that loads data, of which only the text arrives.
    """
    try:
        yield
    except Exception as error:
        if message := _explanation(error):
            raise ToolError(message) from error
        raise


def _explanation(error: Exception) -> str | None:
    text = str(error)
    name = next(
        (
            frame.f_locals["filename"]
            for frame, _ in traceback.walk_tb(error.__traceback__)
            if frame.f_code is _LOADER and "filename" in frame.f_locals
        ),
        None,
    )
    if name is None:
        if f'"{_LOADER.co_filename}"' not in text:
            return None
        if found := _NAMED.search(text):
            name = found[1]
    if name is None:
        return (
            "an image of the data set is empty: find it with `find FOLDER -size 0`, "
            "and get it once more"
        )
    return f"image {name} cannot be read: get it once more, or take it out of ann_file"
