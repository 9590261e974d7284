"""An annotation file of COCO's format, as far as every reader of it needs it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from odconv_det.plugin.errors import ToolError

__all__ = ["SIZE", "CocoContent", "is_number"]

SIZE = ("width", "height")


class CocoContent:
    """The lists of an annotation file: ``images``, ``categories``, ``annotations``.

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
            if "BOM" in str(error):
                raise ToolError(
                    f"{path} begins with a byte order mark: save it as UTF-8 without "
                    "one"
                ) from error
            raise ToolError(
                f"{path} is no whole JSON file ({error}): get it once more"
            ) from error
        if not isinstance(content, Mapping):
            content = {}
        self.images = self._list(content, "images", "id", "file_name", *SIZE)
        self.categories = self._list(content, "categories", "id", "name")
        # Files of images to predict, without an answer, have no annotations.
        self.annotations = self._list({"annotations": []} | content, "annotations")
        if not self.images:
            raise ToolError(f"{path} lists no image: give a file with images")
        self._check_images()
        self._check_ids()

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
            if not isinstance(item, Mapping):
                raise ToolError(
                    f"{self.path}: {key}[{number}] is {item!r}: each must be an object "
                    "{...} of COCO's format"
                )
            if lost := [name for name in needed if name not in item]:
                raise ToolError(
                    f"{self.path}: {key}[{number}] has no {lost[0]}: each needs "
                    f"{', '.join(needed)}"
                )
        return items

    def _check_images(self) -> None:
        for number, image in enumerate(self.images):
            place = f"{self.path}: images[{number}]"
            for key in SIZE:
                if not is_number(image[key]):
                    raise ToolError(
                        f"{place}: {key} is {image[key]!r}: write it in pixels"
                    )
            if not isinstance(image["file_name"], str):
                raise ToolError(
                    f"{place}: file_name is {image['file_name']!r}: write the path of "
                    "the image below data_prefix"
                )

    def _check_ids(self) -> None:
        """Every id is one, and no two are the same: of two, one would be dropped."""
        for key in ("images", "categories", "annotations"):
            seen = set()
            for item in getattr(self, key):
                if "id" not in item:  # an annotation, of which more is said later
                    continue
                name = item["id"]
                if not isinstance(name, int | str) or name in seen:
                    twice = "is of two" if isinstance(name, int | str) else "is no id"
                    raise ToolError(
                        f"{self.path}: id {name!r} {twice} of its {key}: number them "
                        "anew"
                    )
                seen.add(name)


def is_number(value: object) -> bool:
    """Whether it is a number, and not one of JSON's ``NaN`` and ``Infinity``."""
    return isinstance(value, int | float) and math.isfinite(value)
