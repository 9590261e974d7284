"""What spoils the folder of a case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

__all__ = [
    "FIRST_IMAGE",
    "TRAINING",
    "VALIDATION",
    "checkpoint",
    "corners",
    "cut",
    "each",
    "edited",
    "picture",
    "written",
]

ANNOTATIONS = Path("data/coco/annotations")
TRAINING = ANNOTATIONS / "instances_train2017.json"
VALIDATION = ANNOTATIONS / "instances_val2017.json"
FIRST_IMAGE = Path("data/coco/train2017/000000000001.png")


def edited(path: Path, edit: Callable[[dict], None]) -> Callable[[Path], None]:
    """Spoils a JSON file."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        edit(content)
        (folder / path).write_text(json.dumps(content))

    return spoil


def each(key: str, **changes: object) -> Callable[[dict], None]:
    """Sets values in every item of a list of a JSON file; ``None`` takes them out."""

    def edit(content: dict) -> None:
        for item in content[key]:
            item.update(changes)
            for name, value in changes.items():
                if value is None:
                    del item[name]

    return edit


def corners(content: dict) -> None:
    """Makes ``x1, y1, x2, y2`` of every box."""
    for item in content["annotations"]:
        x, y, width, height = item["bbox"]
        item["bbox"] = [x, y, x + width, y + height]


def picture(
    path: Path, size: tuple[int, int], orientation: int = 1
) -> Callable[[Path], None]:
    """Writes a black image, with its EXIF orientation."""

    def spoil(folder: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", size).save(folder / path, exif=exif)

    return spoil


def written(path: str | Path, content: bytes = b"") -> Callable[[Path], None]:
    """Writes a file."""

    def spoil(folder: Path) -> None:
        (folder / path).write_bytes(content)

    return spoil


def cut(path: Path | str, share: float = 0.5) -> Callable[[Path], None]:
    """Cuts the end of a file off."""

    def spoil(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: int(len(content) * share)])

    return spoil


def checkpoint(
    progress: bool = False, share: float = 1.0, part: str = "", **changes: object
) -> Callable[[Path], None]:
    """Writes ``other.pth``, of ``tiny.py`` with these changes of its model.

    Args:
        progress: whether it says where its training was.
        share: of the file that is written.
        part: of the model that is saved alone, without its prefix.
        **changes: ``__`` is the dot of a place.
    """

    def spoil(folder: Path) -> None:
        cfg = Config.fromfile(folder / "tiny.py", import_custom_modules=False)
        cfg.merge_from_dict({k.replace("__", "."): v for k, v in changes.items()})
        init_default_scope("mmdet")
        model = MODELS.build(cfg.model)
        model = getattr(model, part) if part else model
        content: dict[str, Any] = {"state_dict": model.state_dict()}
        if progress:
            content |= {"meta": {"epoch": 1, "iter": 2}, "optimizer": {}}
        torch.save(content, folder / "other.pth")
        cut("other.pth", share)(folder)

    return spoil
