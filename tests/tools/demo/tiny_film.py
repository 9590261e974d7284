"""Small films and label films, as the files of the real one."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

__all__ = ["film", "tiff"]


def tiff(pages: Sequence[np.ndarray]) -> bytes:
    """A multi-page 16-bit TIFF, compressed as the real film is."""
    first, *rest = [Image.fromarray(page.astype(np.uint16)) for page in pages]
    file = io.BytesIO()
    first.save(
        file,
        format="TIFF",
        save_all=True,
        append_images=rest,
        compression="tiff_adobe_deflate",
    )
    return file.getvalue()


def film(
    frames: int, height: int, width: int, nuclei: int, radius: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames of bright discs on noise, and their label images; discs may touch."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    images, labels = [], []
    for _ in range(frames):
        ids = np.zeros((height, width), np.uint16)
        for number in range(1, nuclei + 1):
            y, x = rng.integers(height), rng.integers(width)
            ids[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = number
        grey = 33000 + 1000 * (ids > 0) + rng.integers(0, 200, ids.shape)
        images.append(grey.astype(np.uint16))
        labels.append(ids)
    return images, labels
