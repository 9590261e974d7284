"""The size of an image: in its annotation file, as it is read, and as it is resized."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import transforms
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from PIL import Image

from odconv_det.plugin.building import registered
from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.images import is_decoder

__all__ = ["check_read_sizes", "warn_of_other_scales"]

_LOOKED_AT = 100  # images, of which the headers are read
_ORIENTATION = 0x0112  # of EXIF; width and height change places from 5 on

# Steps behind which an object is as large as before.
_KEEP_SIZES = {
    LoadImageFromFile,
    transforms.FilterAnnotations,
    transforms.LoadAnnotations,
    transforms.PackDetInputs,
    transforms.Pad,
    transforms.PhotoMetricDistortion,
    transforms.RandomFlip,
    transforms.YOLOXHSVRandomAug,
}


def check_read_sizes(
    path: str, folder: str, images: Sequence[Mapping[str, Any]], step: object
) -> None:
    """Raise ToolError if an image is not read in the size that its boxes are for.

    Of images spread evenly over the file the headers are read; those that cannot be are
    left to the run.

    Args:
        path: of the annotation file.
        folder: of the images, on this machine.
        images: of the annotation file.
        step: of the pipeline; those that read no images are passed over.
    """
    if not is_decoder(step):
        return
    count = min(len(images), _LOOKED_AT)
    for number in np.linspace(0, len(images) - 1, count).round().astype(int):
        image = images[number]
        name = os.path.join(folder, image["file_name"])
        try:
            size, turned = _header(name)
            applied = turned and _turns(turned, step.color_type, step.imdecode_backend)
        except Exception:  # of as many kinds as there are formats
            continue
        seen = size[::-1] if applied else size
        said = (image["width"], image["height"])
        if max(abs(a - b) for a, b in zip(seen, said, strict=True)) <= 1:  # rounded
            continue
        advice = "put the image there that was annotated"
        if turned and seen == said[::-1]:  # its size before or after the turn
            words = "color_type='color_ignore_orientation'"
            if not applied:
                words = "imdecode_backend='pillow' and color_type='color'"
            advice = (
                f"its EXIF orientation is {'' if applied else 'not '}applied; give "
                f"each LoadImageFromFile {words}"
            )
        raise ToolError(
            f"image {name} is read as {_text(seen)}, but has {_text(said)} in {path}: "
            f"{advice}, or write boxes, width and height for what is read"
        )


def warn_of_other_scales(
    trained: Sequence[Sequence[Mapping[str, Any]]],
    tested: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
    place: str,
) -> None:
    """Print a warning if images are tested in another size than in training.

    Nothing is said of a pipeline that draws sizes, cuts images, or has a step that is
    not known here.

    Args:
        trained: pipelines of the training.
        tested: pipeline of the test.
        images: of the test, of which those of the most common size are compared.
        place: of the test.
    """
    sizes = Counter((image["width"], image["height"]) for image in images)
    ((size, _),) = sizes.most_common(1)
    test, training = _resized(size, tested), [_resized(size, one) for one in trained]
    if training and None not in (test, *training) and test not in training:
        print_log(
            f"warning: an image of {_text(size)} is tested as {_text(test)}, but in "
            f"training it would be {_text(training[0])}: give train_dataloader and "
            f"{place} the same Resize"
        )


def _header(path: str) -> tuple[tuple[int, int], str | None]:
    """Width and height as stored, and the format if EXIF says to exchange them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images and torn metadata
        with Image.open(path) as image:
            exif = Image.Exif()
            exif.load(image.info.get("exif"))
            turned = exif.get(_ORIENTATION) in range(5, 9)
            return image.size, image.format if turned else None


@functools.lru_cache(maxsize=64)  # formats, times words of a pipeline
def _turns(kind: str, flag: str, backend: str) -> bool:
    """Whether MMCV's decoder does what EXIF says, which it does for some formats."""
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    file = io.BytesIO()
    Image.new("RGB", (16, 8)).save(file, kind, exif=exif)
    read = mmcv.imfrombytes(file.getvalue(), flag=flag, backend=backend)
    return read.shape[:2] == (16, 8)


def _resized(
    size: tuple[int, int], pipeline: Sequence[Mapping[str, Any]]
) -> tuple[int, int] | None:
    """What a pipeline makes of an image of this size; ``None`` if that is not known."""
    for step in pipeline:
        kind, scale = registered(step.get("type"), TRANSFORMS), step.get("scale")
        if kind is transforms.Resize and scale:
            scale = (scale, scale) if isinstance(scale, int) else tuple(scale)
            size = mmcv.rescale_size(size, scale) if step.get("keep_ratio") else scale
        elif kind not in _KEEP_SIZES:
            return None
    return size


def _text(size: tuple[float, float]) -> str:
    return f"{size[0]}x{size[1]}"
