"""The rule that rebuilds the golden networks' weights: each a function of its key."""

import zlib
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor


def golden_tensor(key: str, shape: Sequence[int], gain: float) -> np.ndarray:
    """Value of the tensor ``key`` (no ``module.`` prefix), float64."""
    rs = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if key.endswith(("running_mean", "bias")):
        return 0.1 * rs.standard_normal(shape)
    if key.endswith("running_var") or len(shape) == 1:
        return rs.uniform(0.5, 1.5, shape)
    fan_in = {2: shape[1], 4: prod(shape[1:]), 5: prod(shape[2:])}[len(shape)]
    numerator, scale = {2: (1, 1.0), 4: (2, 1.0), 5: (2, gain)}[len(shape)]
    return scale * rs.standard_normal(shape) * np.sqrt(numerator / fan_in)


def golden_state(
    shapes: Mapping[str, Sequence[int]], gain: float, dtype: torch.dtype
) -> dict[str, Tensor]:
    """A whole state dict; counters are int64."""
    return {
        key: torch.as_tensor(golden_tensor(key, shape, gain)).to(
            torch.int64 if key.endswith("num_batches_tracked") else dtype
        )
        for key, shape in shapes.items()
    }
