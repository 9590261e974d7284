"""Which precision a part computes in, whatever autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["autocast_input", "full_precision"]


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """A context in which autocast leaves the operands' own dtype alone."""
    if _autocasts(device_type):
        return torch.autocast(device_type, enabled=False)
    return _NOTHING


def autocast_input(x: Tensor) -> Tensor:
    """``x`` as a convolution under autocast would take it."""
    device_type = x.device.type
    if _autocasts(device_type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device_type))
    return x


_NOTHING = nullcontext()


def _autocasts(device_type: str) -> bool:
    available = torch.amp.is_autocast_available(device_type)
    return available and torch.is_autocast_enabled(device_type)
