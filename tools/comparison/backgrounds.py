"""Backgrounds for scenes: octaves of noise, stripes and a gradient, in random colours.

Every call draws a new one, so scenes that draw from different generators share none.
"""

import cv2
import numpy as np

__all__ = ["background"]

# Cells along a side, from the coarsest octave to the finest.
OCTAVES = (2, 4, 8, 16, 32, 64)


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a background of (size, size, 3) bytes."""
    # A steep fall of the amplitudes gives clouds, a flat one gives grit.
    roughness = rng.uniform(0.4, 0.9)
    texture = np.zeros((size, size), np.float32)
    for number, cells in enumerate(OCTAVES):
        grid = rng.standard_normal((cells, cells), np.float32)
        texture += roughness**number * _enlarged(grid, size)
    texture += rng.uniform(0, 1.5) * _stripes(size, rng)
    texture += rng.uniform(0, 1.5) * _ramp(size, rng.uniform(0, 2 * np.pi))
    texture -= texture.min()
    texture /= max(float(texture.max()), 1e-6)
    return _coloured(texture, rng)


def _enlarged(grid: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def _ramp(size: int, angle: float) -> np.ndarray:
    """Values from about -1 to 1 that rise in the direction of ``angle``."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]


def _stripes(size: int, rng: np.random.Generator) -> np.ndarray:
    phase = _ramp(size, rng.uniform(0, 2 * np.pi)) * rng.uniform(5, 60)
    return np.sin(phase)


def _coloured(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Map [0, 1] to a course of three random colours."""
    colours = rng.uniform(0, 255, (3, 3))
    course = [np.interp(texture, (0, 0.5, 1), colours[:, i]) for i in range(3)]
    return np.rint(np.stack(course, axis=-1)).astype(np.uint8)
