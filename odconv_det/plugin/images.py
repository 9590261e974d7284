"""Images that cannot be read, before a run and in the middle of it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile

from odconv_det.plugin.errors import ToolError

__all__ = ["check_decoder", "image_errors", "is_decoder"]

_LOADER = LoadImageFromFile.transform.__code__
_DECODED = re.compile(r"failed to load image: (?P<name>.+)$")
_SYSTEM = re.compile(r"\[Errno \d+\] (?P<reason>[^:]+): '(?P<name>.+)'$")
_EMPTY = re.compile(r"!buf\.empty\(\)")  # of OpenCV


def is_decoder(step: object) -> bool:
    """Whether a step of a pipeline reads images of the usual formats from files."""
    reads = getattr(type(step), "transform", None) is LoadImageFromFile.transform
    return reads and step.imdecode_backend != "tifffile"


def check_decoder(step: object) -> None:
    """Raise ToolError if a step of a pipeline cannot decode any image."""
    if not is_decoder(step):
        return
    kind, backend = step.color_type, step.imdecode_backend
    _, image = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
    try:
        mmcv.imfrombytes(image.tobytes(), flag=kind, backend=backend)
    except Exception as error:
        raise ToolError(
            f"LoadImageFromFile(color_type={kind!r}, imdecode_backend={backend!r}) "
            f"decodes no image ({type(error).__name__}: {error}): mend these words"
        ) from error


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
    text = str(error).rstrip()
    own = next(
        (
            frame.f_locals["filename"]
            for frame, _ in traceback.walk_tb(error.__traceback__)
            if frame.f_code is _LOADER and "filename" in frame.f_locals
        ),
        None,
    )
    if own is None and f'"{_LOADER.co_filename}"' not in text:
        return None
    found = _DECODED.search(text) or _SYSTEM.search(text)
    name = own or (found and found["name"])
    last = text.splitlines()[-1] if text else type(error).__name__
    reason = "it is empty" if _EMPTY.search(text) else last
    if found:
        reason = found.groupdict().get("reason")
    if name is None:
        find = "find FOLDER -size 0" if reason == "it is empty" else "num_workers=0"
        return (
            f"an image of the data set cannot be read ({reason}): `{find}` names it; "
            "get it once more"
        )
    return (
        f"image {name} cannot be read{f' ({reason})' if reason else ''}: get it once "
        "more, or take it out of ann_file"
    )
