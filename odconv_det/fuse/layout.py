"""In which memory layout a fused network computes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["LAYOUTS", "Layout", "enter"]

Layout = Literal["auto", "channels_last", "contiguous"]
LAYOUTS = get_args(Layout)


def enter(x: Tensor, layout: Layout) -> Tensor:
    """``x`` in the layout that the network computes in from here on.

    Convolutions give their output in their input's layout, so this is the only place
    where it is chosen. ``auto`` takes channels_last: see ``docs/benchmarks.md``.

    Shape:
        - x: ``(B, C, H, W)``; anything else is returned as it is
    """
    if not isinstance(x, Tensor) or x.dim() != 4:
        return x
    if layout == "contiguous":
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)
