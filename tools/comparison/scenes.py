"""Compose a scene of garments whose every visible pixel is known."""

from dataclasses import dataclass

import cv2
import numpy as np

from comparison.backgrounds import background
from comparison.garments import Garments

__all__ = ["Item", "Layout", "Scene", "compose", "silhouette"]

# The photographs' own background is 0, and their JPEG-like noise stays below this.
FOREGROUND = 20


@dataclass(frozen=True)
class Layout:
    """How scenes are composed.

    Attributes:
        size: Side of a scene in pixels.
        fewest, most: How many garments are wanted.
        smallest, largest: Side of a garment's picture, relative to the scene's: 32 to
            128 px of 320.
        visible: Part of every garment that must stay visible. One that finds no place
            without hiding more of another is left out of the scene, so that nothing is
            in the picture and not in its annotations.
        tries: Places tried for a garment.
    """

    size: int = 192
    fewest: int = 4
    most: int = 12
    smallest: float = 0.1
    largest: float = 0.4
    visible: float = 0.4
    tries: int = 10

    def __post_init__(self) -> None:
        if self.size < 64:
            raise ValueError(f"scenes have at least 64 px, got {self.size}")


@dataclass(frozen=True)
class Item:
    """One garment of a scene.

    Attributes:
        garment: Its number in the split's file.
        label: Its class.
        mask: (size, size), true where it is visible.
    """

    garment: int
    label: int
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A picture of (size, size, 3) bytes, and its garments from back to front."""

    image: np.ndarray
    items: tuple[Item, ...]


def compose(garments: Garments, layout: Layout, rng: np.random.Generator) -> Scene:
    """Draw one scene."""
    image = background(layout.size, rng)
    # Which garment, from the rearmost on, each pixel shows; -1 is the background.
    owner = np.full((layout.size, layout.size), -1)
    chosen: list[int] = []
    full: list[int] = []
    for _ in range(rng.integers(layout.fewest, layout.most, endpoint=True)):
        number = int(rng.integers(len(garments.labels)))
        low, high = (layout.size * part for part in (layout.smallest, layout.largest))
        side = round(rng.uniform(low, high))
        grey, mask = _enlarged(garments.images[number], side, flip=rng.random() < 0.5)
        colours = _tinted(grey, rng)
        corner = _free_place(owner, full, mask, layout, rng)
        if corner is None or not mask.any():
            continue
        window = tuple(slice(start, start + side) for start in corner)
        image[window][mask] = colours[mask]
        owner[window][mask] = len(chosen)
        chosen.append(number)
        full.append(int(mask.sum()))
    items = (
        Item(number, int(garments.labels[number]), owner == position)
        for position, number in enumerate(chosen)
    )
    return Scene(image, tuple(items))


def silhouette(picture: np.ndarray) -> np.ndarray:
    """Where the garment is in its picture: all but what the border can reach.

    Dark prints and the inside of a handle are enclosed, and count as garment.
    """
    outside = np.pad(picture <= FOREGROUND, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2)
    return outside[1:-1, 1:-1] != 2


def _enlarged(
    picture: np.ndarray, side: int, flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The picture in [0, 1], and its mask, at (side, side)."""
    mask = silhouette(picture).astype(np.float32)
    grey = picture.astype(np.float32) / 255
    if flip:
        mask, grey = mask[:, ::-1], grey[:, ::-1]
    grey, mask = (
        cv2.resize(np.ascontiguousarray(x), (side, side), interpolation=cv2.INTER_AREA)
        if side < picture.shape[0]
        else cv2.resize(np.ascontiguousarray(x), (side, side))
        for x in (grey, mask)
    )
    return grey, mask > 0.5


def _tinted(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours between a random tint and a dark shade of it."""
    tint = rng.uniform(60, 255, 3)
    course = 0.2 + 0.8 * grey[..., None]
    return np.rint(course * tint).astype(np.uint8)


def _free_place(
    owner: np.ndarray,
    full: list[int],
    mask: np.ndarray,
    layout: Layout,
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    """A corner where the mask leaves enough of every garment behind it visible."""
    side = mask.shape[0]
    now = np.bincount(owner[owner >= 0], minlength=len(full))
    least = layout.visible * np.asarray(full)
    for _ in range(layout.tries):
        y, x = rng.integers(layout.size - side, size=2, endpoint=True).tolist()
        hit = owner[y : y + side, x : x + side][mask]
        left = now - np.bincount(hit[hit >= 0], minlength=len(full))
        if (left >= least).all():
            return y, x
    return None
