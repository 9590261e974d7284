"""Write scenes as a COCO data set."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from comparison.garments import CLASSES, Garments
from comparison.scenes import Item, Layout, compose

__all__ = ["SPLITS", "Scenes", "summary", "write"]

# The order counts: it tells the splits' random numbers apart.
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Scenes:
    """How many scenes of which kind.

    A scene depends on ``seed``, its split and its number alone: a larger set begins
    with the scenes of a smaller one.
    """

    train: int = 1000
    test: int = 200
    seed: int = 0
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        if min(self.train, self.test) < 1:
            raise ValueError(
                f"both splits need scenes, got {self.train} and {self.test}"
            )


def write(garments: Mapping[str, Garments], folder: Path, scenes: Scenes) -> dict:
    """Write ``folder`` with PNG images and ``annotations/{train,test}.json``.

    Nothing is done if ``folder`` already holds the same scenes. The work happens in a
    folder beside it that is renamed at the end: what was interrupted never looks
    complete.

    Returns:
        The counts that :func:`summary` returns.
    """
    done = summary(folder, scenes)
    if done is not None:
        return done
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "annotations").mkdir(parents=True)
    counts = {}
    for split in SPLITS:
        coco = _write_split(garments[split], partial, split, scenes)
        counts[f"{split}_scenes"] = len(coco["images"])
        counts[f"{split}_garments"] = len(coco["annotations"])
    about = {"scenes": asdict(scenes), "counts": counts}
    (partial / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return counts


def summary(folder: Path, scenes: Scenes) -> dict[str, int] | None:
    """Numbers of scenes and garments if ``folder`` holds these scenes, else ``None``.

    Keys: ``train_scenes``, ``train_garments``, ``test_scenes``, ``test_garments``.
    """
    try:
        about = json.loads((folder / "about.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return about["counts"] if about.get("scenes") == asdict(scenes) else None


def _write_split(
    garments: Garments, folder: Path, split: str, scenes: Scenes
) -> dict[str, list]:
    (folder / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(getattr(scenes, split)):
        rng = np.random.default_rng((scenes.seed, SPLITS.index(split), number))
        scene = compose(garments, scenes.layout, rng)
        name = f"{number:05d}.png"
        cv2.imwrite(str(folder / split / name), scene.image[..., ::-1])
        size = scenes.layout.size
        images.append(dict(id=number + 1, file_name=name, width=size, height=size))
        for item in scene.items:
            annotations.append(
                dict(id=len(annotations) + 1, image_id=number + 1, **_annotation(item))
            )
    coco = dict(
        info=dict(description=f"Scenes composed of Fashion-MNIST garments, {split}"),
        images=images,
        annotations=annotations,
        categories=[
            dict(id=number, name=name) for number, name in enumerate(CLASSES, start=1)
        ],
    )
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(coco))
    return coco


def _annotation(item: Item) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(item.mask, dtype=np.uint8))
    counts = encoded["counts"].decode("ascii")
    return dict(
        category_id=item.label + 1,
        bbox=[float(value) for value in rle.toBbox(encoded)],
        area=int(rle.area(encoded)),
        iscrowd=0,
        segmentation=dict(size=list(item.mask.shape), counts=counts),
        garment=item.garment,
    )
