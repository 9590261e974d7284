"""Boxes that are written as their corners, which every reader takes for other boxes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from mmengine.logging import print_log
from pycocotools import mask as run_lengths

from odconv_det.plugin.coco import is_number
from odconv_det.plugin.errors import ToolError

__all__ = ["check_corners"]

_OUTLINES = 200  # looked at
_ENOUGH = 5  # fewer may look like corners by chance


def check_corners(
    path: str, boxes: Sequence[tuple[Mapping[str, Any], tuple[float, float]]]
) -> None:
    """Raise ToolError if most boxes are ``x1, y1, x2, y2``, as their outlines tell.

    Where there are no outlines, a warning says so of boxes that reach out of their
    images. A box that is drawn loosely, or around what is hidden too, fits its
    outline in neither way and says nothing.

    Args:
        path: of the annotation file.
        boxes: annotations that can be used, with width and height of their images.
    """
    extents = (
        (one["bbox"], _extent(one["segmentation"], size))
        for one, size in boxes
        if one.get("segmentation")
    )
    outlined = list(islice((pair for pair in extents if pair[1]), _OUTLINES))
    by_outline = len(outlined) >= _ENOUGH
    if by_outline:
        seen = "fits its outline"
        fits = [(_agree(box, e), _agree(_corners(box), e)) for box, e in outlined]
    else:
        seen = "is inside its image"
        if not all(_is_inside(one["bbox"], size) for one, size in boxes):
            return
        fits = [(True, _is_inside(_corners(one["bbox"]), size)) for one, size in boxes]
    wrong = fits.count((True, False))
    if len(fits) < _ENOUGH or wrong <= len(fits) / 2:
        return
    said = (
        f"{path}: bbox of {wrong} of {len(fits)} annotations {seen} only as corners "
        "x1, y1, x2, y2: write [x, y, width, height]"
    )
    if by_outline:
        raise ToolError(said)
    print_log(f"warning: {said}")  # boxes may reach out of a part of an image


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _agree(corners: Sequence[float], outline: Sequence[float]) -> bool:
    slack = [_slack(outline[2] - outline[0]), _slack(outline[3] - outline[1])]
    return all(
        abs(a - b) <= c for a, b, c in zip(corners, outline, slack * 2, strict=True)
    )


def _is_inside(corners: Sequence[float], size: tuple[float, float]) -> bool:
    return all(
        -_slack(side) <= low < high <= side + _slack(side)
        for low, high, side in zip(corners[:2], corners[2:], size, strict=True)
    )


def _slack(side: float) -> float:
    """How exactly boxes are drawn, in pixels."""
    return max(2, side / 20)


def _extent(outline: object, size: tuple[float, float]) -> list[float] | None:
    """The corners around an outline; ``None`` for one that cannot be read."""
    if isinstance(outline, list):
        polygons = [one for one in outline if isinstance(one, list)]
        if not all(is_number(number) for one in polygons for number in one):
            return None
        xs = [number for one in polygons for number in one[::2]]
        ys = [number for one in polygons for number in one[1::2]]
        return [min(xs), min(ys), max(xs), max(ys)] if ys else None
    width, height = size
    if not isinstance(outline, Mapping) or outline.get("size") != [height, width]:
        return None
    counts = outline.get("counts")
    # pycocotools reads past the end of a string whose last number goes on.
    if not isinstance(counts, list) and not re.fullmatch("[0-o]*[0-O]", str(counts)):
        return None
    try:
        if isinstance(counts, list):
            outline = run_lengths.frPyObjects(outline, height, width)
        box = run_lengths.toBbox(outline)
    except (KeyError, TypeError, ValueError, OverflowError):  # what nobody reads
        return None
    return _corners(box) if box[2] else None
