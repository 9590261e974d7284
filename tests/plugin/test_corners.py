"""Boxes that are corners are told from boxes that only look a little like them."""

import itertools

import numpy as np
import pytest
from pycocotools import mask as run_lengths

from odconv_det.plugin.corners import check_corners
from odconv_det.plugin.errors import ToolError

SIZE = (120, 90)


def objects(count: int = 12) -> np.ndarray:
    """Corners x1, y1, x2, y2 of objects anywhere in the image."""
    random = np.random.default_rng(0)
    low = random.integers(0, (90, 60), (count, 2))
    return np.hstack([low, low + random.integers(12, 30, (count, 2))])


def as_box(corners) -> list[float]:
    x1, y1, x2, y2 = map(float, corners)
    return [x1, y1, x2 - x1, y2 - y1]


def polygon(corners) -> list[list[float]]:
    x1, y1, x2, y2 = map(float, corners)
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def pixels(corners) -> np.ndarray:
    x1, y1, x2, y2 = corners
    mask = np.zeros(SIZE[::-1], np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return mask


def compressed(corners) -> dict:
    code = run_lengths.encode(pixels(corners))
    return code | dict(counts=code["counts"].decode())


def counted(corners) -> dict:
    flat = pixels(corners).flatten(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    counts = np.diff([0, *ends, flat.size]).tolist()
    return dict(size=list(SIZE[::-1]), counts=counts)


def nothing(corners) -> None:
    return None


def check(boxes, outlines) -> None:
    pairs = zip(boxes, outlines, strict=True)
    annotations = [dict(bbox=list(box), segmentation=one) for box, one in pairs]
    check_corners("boxes.json", [(one, SIZE) for one in annotations])


@pytest.mark.parametrize("outline", [polygon, compressed, counted])
def test_corners_are_refused_whatever_outline_shows_it(outline):
    things = objects()
    outlines = [outline(thing) for thing in things]
    check(map(as_box, things), outlines)
    with pytest.raises(ToolError, match="of 12 annotations .* only as corners"):
        check(things.tolist(), outlines)


def test_most_boxes_decide():
    things = objects()
    outlines = [polygon(thing) for thing in things]
    boxes = [as_box(thing) for thing in things]
    check([*things[:4].tolist(), *boxes[4:]], outlines)
    with pytest.raises(ToolError, match="bbox of 8 of 12 annotations fits its outline"):
        check([*things[:8].tolist(), *boxes[8:]], outlines)


@pytest.mark.parametrize("margin", [1, 5, 10, 20, 40])
def test_boxes_may_be_larger_than_their_outlines_and_their_images(margin):
    """As loose ones, and those of objects that are hidden in part."""
    things = objects()
    larger = things + margin * np.array([-1, -1, 1, 1])
    hidden = things + margin * np.array([0, 0, 1, 1])
    for thing in (larger, larger.clip(0), hidden):
        boxes = [as_box(one) for one in thing]
        check(boxes, map(polygon, things))
        check(boxes, map(nothing, things))


def test_without_outlines_boxes_out_of_their_images_are_said(capsys):
    """And not refused: they may be of a part of an image. One other speaks for all."""
    large = [[40, 30, 100, 80]] * 11
    check([*large, [80, 50, 30, 60]], [None] * 12)
    assert "warning" not in capsys.readouterr().out
    check([*large, [80, 50, 90, 60]], [None] * 12)
    said = capsys.readouterr().out
    assert "warning: boxes.json: bbox of 12 of 12 annotations is inside its" in said


def test_few_boxes_say_nothing():
    things = objects(4)
    check(things.tolist(), map(polygon, things))
    check(things.tolist(), map(nothing, things))


def test_an_outline_that_nobody_can_read_says_nothing():
    things = objects()
    size = list(SIZE[::-1])
    outlines = [
        ["word"],
        [["a", 1, 2, 3, 4, 5]],
        [[]],
        dict(size=[1, 1], counts=[1]),
        dict(size=size),
        dict(size=size, counts=["a"]),
        dict(size=size, counts=[-1]),
        dict(size=size, counts=5),
        dict(size=size, counts=""),
        # Of these pycocotools would read past the end.
        *(dict(size=size, counts="1" * 31 + chr(c)) for c in range(80, 112)),
        "word",
        5,
        {},
    ]
    boxes = itertools.cycle(map(as_box, things))
    check(itertools.islice(boxes, len(outlines)), outlines)
