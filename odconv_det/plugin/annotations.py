"""What is wrong with an annotation file of COCO's format, before a run reads it.

MMDetection leaves out what it does not understand: a class whose name is not in the
file, boxes of categories that are not asked for, boxes without a size. A run then
learns something else than was meant, and does not say so.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log

from odconv_det.plugin.building import suggestion
from odconv_det.plugin.coco import CocoContent, is_number
from odconv_det.plugin.corners import check_corners
from odconv_det.plugin.errors import ToolError

__all__ = ["CocoFile", "check_classes"]

_SHOWN = 3
_CROWD = "crowds (iscrowd=1)"  # the one kind that is left out by intent


class CocoFile(CocoContent):
    """An annotation file that is compared with what a run makes of it."""

    def kept_images(
        self, classes: Sequence[str], rules: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The images of a training that MMDetection does not filter out.

        Args:
            classes: those to learn.
            rules: the data set's ``filter_cfg``.
        """
        wanted = {c["id"] for c in self.categories if c["name"] in classes}
        with_boxes = {
            annotation.get("image_id")
            for annotation in self.annotations
            if annotation.get("category_id") in wanted
        }
        least = rules.get("min_size", 0)
        return [
            image
            for image in self.images
            if (image["id"] in with_boxes or not rules.get("filter_empty_gt"))
            and min(image["width"], image["height"]) >= least
        ]

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
            if names.count(name) > 1:
                raise ToolError(
                    f"{self.path} has two categories with the name {name!r}: give each "
                    "class one category"
                )
        # Labels count the categories in the order of the file.
        order = tuple(name for name in names if name in classes)
        if order != tuple(classes):
            raise ToolError(
                f"metainfo.classes are in another order than in {self.path}, by which "
                f"labels are counted: write classes=({_first(map(repr, order), 10)})"
            )

    def check_boxes(
        self, classes: Sequence[str], *, masks: bool = False, truth: bool = False
    ) -> int:
        """How many boxes can be used; what is left out is said in a warning.

        Args:
            classes: those to learn or to find.
            masks: whether every box needs its outline.
            truth: whether predictions are compared with them, which asks for more.

        Raises:
            ToolError: for a box that is none, or lacks what is needed.
        """
        if truth and any(annotation.get("id") == 0 for annotation in self.annotations):
            raise ToolError(
                f"{self.path} has an annotation of id 0, whose match COCO's evaluation "
                "counts as a miss: number annotations from 1"
            )
        sizes = {
            image["id"]: (image["width"], image["height"]) for image in self.images
        }
        needed = ("id", "image_id", "category_id", "bbox", "area")
        needed += ("iscrowd",) if truth else ()
        names = {category["id"]: category["name"] for category in self.categories}
        left_out: Counter[str] = Counter()
        used = []
        for annotation in self.annotations:
            if annotation.get("ignore"):
                continue
            self._check_box(annotation, names, needed)
            size = sizes.get(annotation["image_id"])
            if size is None:
                left_out["of images that are not listed"] += 1
            elif _is_empty(annotation, size):
                left_out["smaller than a pixel, or outside their image"] += 1
            elif names[annotation["category_id"]] not in classes:
                left_out["of other categories than metainfo.classes"] += 1
            elif masks and not self._has_outline(annotation, size):
                left_out["without an outline of three points"] += 1
            elif annotation.get("iscrowd"):
                left_out[_CROWD] += 1
            else:
                used.append((annotation, size))
        for kind, count in left_out.items():
            if kind != _CROWD:
                print_log(f"warning: {self.path}: {count} boxes are left out, {kind}")
        if self.annotations and not used:
            raise ToolError(
                f"{self.path}: none of its {len(self.annotations)} boxes can be used, "
                + "; ".join(f"{n} are {kind}" for kind, n in left_out.items())
                + ": mend the boxes (x, y, width and height in pixels)"
            )
        check_corners(self.path, used)
        return len(used)

    def _check_box(
        self,
        annotation: Mapping[str, Any],
        names: Mapping[int, str],
        needed: Sequence[str],
    ) -> None:
        place = f"{self.path}: annotation {annotation.get('id', '')}"
        for key in needed:
            if key not in annotation:
                each = f"{', '.join(needed[:-1])} and {needed[-1]}"
                raise ToolError(f"{place} has no {key}: each needs {each}")
        box, area = annotation["bbox"], annotation["area"]
        if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
            raise ToolError(
                f"{self.path}: bbox of annotation {annotation['id']} is {box!r}: write "
                "[x, y, width, height] in pixels"
            )
        if not is_number(area):
            raise ToolError(f"{place}: area is {area!r}: write it in pixels")
        for key in ("image_id", "category_id"):
            if not isinstance(annotation[key], int | str):
                raise ToolError(f"{place}: {key} is {annotation[key]!r}: write one id")
        if annotation["category_id"] not in names:
            raise ToolError(
                f"{place} is of category {annotation['category_id']!r}, which its "
                "categories do not list: add it there"
            )

    def _has_outline(
        self, annotation: Mapping[str, Any], size: tuple[float, float]
    ) -> bool:
        """Whether a mask comes of the segmentation: polygons, or run lengths (RLE)."""
        outline = annotation.get("segmentation")
        place = f"{self.path}: annotation {annotation['id']}"
        if not outline:
            raise ToolError(
                f"{place} has no segmentation, which this detector learns: give "
                "outlines, or take a detector of boxes"
            )
        if isinstance(outline, list):
            lists = [one for one in outline if isinstance(one, list)]
            if not all(is_number(number) for one in lists for number in one):
                raise ToolError(
                    f"{place}: a number of its segmentation is none: write polygons, "
                    "[[x, y, ...]] in pixels"
                )
            return any(len(one) >= 6 and len(one) % 2 == 0 for one in lists)
        if not isinstance(outline, Mapping) or not {"size", "counts"} <= set(outline):
            raise ToolError(
                f"{place}: its segmentation is neither polygons [[x, y, ...]] nor an "
                "RLE with size and counts: write one of them"
            )
        if outline["size"] != [size[1], size[0]]:
            raise ToolError(
                f"{place}: its RLE is of size {outline['size']!r} and its image of "
                f"[{size[1]}, {size[0]}] (height, width): both must be the same"
            )
        return True

    def check_images(self, folder: str, images: Sequence[Mapping[str, Any]]) -> None:
        """Raise ToolError if some of these images are not in ``folder``.

        Folders are listed once; no image is looked at.
        """
        wanted = defaultdict(list)
        for image in images:
            place, name = os.path.split(os.path.join(folder, image["file_name"]))
            wanted[place].append(name)
        lost = []
        for place, names in wanted.items():
            there = _listed(place or ".")
            lost += [os.path.join(place, n) for n in names if n not in there]
        if lost:
            raise ToolError(
                f"{len(lost)} of the {len(images)} images of {self.path} are "
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
    if not isinstance(classes, list | tuple):
        raise ToolError(
            f"metainfo.classes is {classes!r}: write the names as a tuple, such as "
            "classes=('cat', 'dog')"
        )
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise ToolError(f"metainfo.classes has {twice[0]!r} twice: name each once")
    return tuple(classes)


def _listed(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise ToolError(
            f"the folder {folder} of images cannot be read ({error.strerror}): make it "
            "readable"
        ) from error


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
