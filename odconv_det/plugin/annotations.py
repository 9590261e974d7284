"""What is wrong with an annotation file of COCO's format, before a run reads it.

MMDetection leaves out what it does not understand: a class whose name is not in the
file, boxes of categories that are not asked for, boxes without a size. A run then
learns something else than was meant, and does not say so.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log

from odconv_det.plugin.building import suggestion
from odconv_det.plugin.errors import ToolError

__all__ = ["CocoFile", "check_classes"]

_SHOWN = 3
_SIZE = ("width", "height")


class CocoFile:
    """The content of an annotation file.

    Args:
        path: of the file.

    Raises:
        ToolError: if it is no JSON, or not of COCO's format.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except OSError as error:
            raise ToolError(
                f"{path} cannot be read ({error.strerror}): ann_file names a COCO file"
            ) from error
        except ValueError as error:
            raise ToolError(
                f"{path} is no whole JSON file ({error}): get it once more"
            ) from error
        if not isinstance(content, Mapping):
            content = {}
        self.images = self._list(content, "images", "id", "file_name", *_SIZE)
        self.categories = self._list(content, "categories", "id", "name")
        # Files of images to predict, without an answer, have no annotations.
        self.annotations = self._list({"annotations": []} | content, "annotations")
        if not self.images:
            raise ToolError(f"{path} lists no image: give a file with images")

    def _list(
        self, content: Mapping[str, Any], key: str, *needed: str
    ) -> list[dict[str, Any]]:
        items = content.get(key)
        if not isinstance(items, list):
            raise ToolError(
                f"{self.path} has no list of {key}: ann_file must be of COCO's format, "
                "with images, annotations and categories"
            )
        for number, item in enumerate(items):
            lost = [n for n in needed if not isinstance(item, Mapping) or n not in item]
            if lost:
                raise ToolError(
                    f"{self.path}: {key}[{number}] has no {lost[0]}: each needs "
                    f"{', '.join(needed)}"
                )
        return items

    def check_categories(self, classes: Sequence[str]) -> None:
        """Raise ToolError if labels would be other ones than those of ``classes``."""
        names = [category["name"] for category in self.categories]
        for name in classes:
            if name not in names:
                raise ToolError(
                    f"{self.path} has no category {name!r} of metainfo.classes"
                    f"{suggestion(name, names)} (it has {_first(names)}): its boxes "
                    "would be left out; write the names as they are in the file"
                )
        # Labels count the categories in the order of the file.
        order = tuple(name for name in names if name in classes)
        if order != tuple(classes):
            raise ToolError(
                f"metainfo.classes are in another order than in {self.path}, by which "
                f"labels are counted: write classes=({_first(map(repr, order), 10)})"
            )

    def check_boxes(self, classes: Sequence[str], *, masks: bool = False) -> int:
        """How many boxes can be used; what is left out is said in a warning.

        Args:
            classes: those to learn or to find.
            masks: whether every box needs its outline.

        Raises:
            ToolError: for a box that is none, or lacks what is needed.
        """
        sizes = {
            image["id"]: (image["width"], image["height"]) for image in self.images
        }
        names = {category["id"]: category["name"] for category in self.categories}
        left_out: Counter[str] = Counter()
        used = 0
        for annotation in self.annotations:
            if annotation.get("ignore"):
                continue
            self._check_box(annotation, names)
            if annotation["image_id"] not in sizes:
                left_out["of images that are not listed"] += 1
            elif _is_empty(annotation, sizes[annotation["image_id"]]):
                left_out["smaller than a pixel, or outside their image"] += 1
            elif names[annotation["category_id"]] not in classes:
                left_out["of other categories than metainfo.classes"] += 1
            elif masks and not annotation.get("segmentation"):
                raise ToolError(
                    f"{self.path}: annotation {annotation['id']} has no segmentation, "
                    "which this detector learns: give outlines, or take a detector of "
                    "boxes"
                )
            else:
                used += 1
        for kind, count in left_out.items():
            print_log(f"warning: {self.path}: {count} boxes are left out, {kind}")
        if self.annotations and not used:
            raise ToolError(
                f"{self.path}: none of its {len(self.annotations)} boxes can be used, "
                + "; ".join(f"{n} are {kind}" for kind, n in left_out.items())
                + ": mend the boxes (x, y, width and height in pixels)"
            )
        return used

    def _check_box(
        self, annotation: Mapping[str, Any], names: Mapping[int, str]
    ) -> None:
        for key in ("id", "image_id", "category_id", "bbox", "area"):
            if key not in annotation:
                raise ToolError(
                    f"{self.path}: annotation {annotation.get('id', '')} has no {key}: "
                    "each needs id, image_id, category_id, bbox and area"
                )
        box = annotation["bbox"]
        if not (
            isinstance(box, list)
            and len(box) == 4
            and all(isinstance(number, int | float) for number in box)
        ):
            raise ToolError(
                f"{self.path}: bbox of annotation {annotation['id']} is {box!r}: write "
                "[x, y, width, height] in pixels"
            )
        if annotation["category_id"] not in names:
            raise ToolError(
                f"{self.path}: annotation {annotation['id']} is of category "
                f"{annotation['category_id']!r}, which its categories do not list: add "
                "it there"
            )

    def check_images(self, folder: str) -> None:
        """Raise ToolError if images of the file are not in ``folder``.

        Folders are listed once; no image is looked at.
        """
        wanted = defaultdict(list)
        for image in self.images:
            place, name = os.path.split(os.path.join(folder, image["file_name"]))
            wanted[place].append(name)
        lost = []
        for place, names in wanted.items():
            try:
                there = set(os.listdir(place or "."))
            except OSError:
                there = set()
            lost += [os.path.join(place, n) for n in names if n not in there]
        if lost:
            raise ToolError(
                f"{len(lost)} of the {len(self.images)} images of {self.path} are "
                f"missing: {_first(lost)}; put them there, or set data_prefix"
            )

    def check_covers(self, other: CocoFile) -> None:
        """Raise ToolError if images of ``other`` are not in this file."""
        known = {image["id"] for image in self.images}
        lost = [image["id"] for image in other.images if image["id"] not in known]
        if lost:
            raise ToolError(
                f"the evaluator's {self.path} does not know image {lost[0]} of "
                f"{other.path}: give the evaluator the ann_file of the data set"
            )


def check_classes(metainfo: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of a data set's ``metainfo``.

    Raises:
        ToolError: if they are not a sequence of names.
    """
    if "CLASSES" in metainfo:
        raise ToolError(
            "metainfo.CLASSES is of MMDetection 2.x and not read: write "
            "metainfo=dict(classes=...)"
        )
    classes = metainfo["classes"]
    if isinstance(classes, str):
        raise ToolError(
            f"metainfo.classes is the text {classes!r}: write the names as a tuple, "
            f"one name with a comma: classes=({classes!r},)"
        )
    return tuple(classes)


def _is_empty(annotation: Mapping[str, Any], size: tuple[int, int]) -> bool:
    """Whether MMDetection leaves the box out for its size."""
    x, y, width, height = annotation["bbox"]
    inside = min(x + width, size[0]) > max(x, 0) and min(y + height, size[1]) > max(
        y, 0
    )
    return not inside or width < 1 or height < 1 or annotation["area"] <= 0


def _first(names: Iterable[object], shown: int = _SHOWN) -> str:
    names = list(map(str, names))
    return ", ".join(names[:shown] + ["..."] * (len(names) > shown))
