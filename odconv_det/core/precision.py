"""Which precision a part computes in, whatever autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["autocast_input", "check_floating", "full_precision", "matmul_is_fast"]


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """A context in which autocast leaves the operands' own dtype alone."""
    if _autocasts(device_type):
        return torch.autocast(device_type, enabled=False)
    return _NOTHING


def check_floating(x: Tensor) -> None:
    """Refuse other inputs than floating-point numbers, as ``nn.Conv2d`` does.

    Kernels and attentions cast to their type would be zeros.

    Raises:
        RuntimeError: for any other type.
    """
    if not x.is_floating_point():
        raise RuntimeError(f"expected a floating-point input, got {x.dtype}")


def autocast_input(x: Tensor) -> Tensor:
    """``x`` as a convolution under autocast would take it.

    Raises:
        RuntimeError: as :func:`check_floating`.
    """
    check_floating(x)
    device_type = x.device.type
    if _autocasts(device_type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device_type))
    return x


_NOTHING = nullcontext()

# Asked here: torch.compile of older torch cannot trace the question.
_AUTOCAST_AVAILABLE = {
    name: torch.amp.is_autocast_available(name) for name in ("cpu", "cuda", "meta")
}


def _autocasts(device_type: str) -> bool:
    available = _AUTOCAST_AVAILABLE.get(device_type)
    if available is None:
        available = torch.amp.is_autocast_available(device_type)
    return available and torch.is_autocast_enabled(device_type)


def matmul_is_fast(x: Tensor) -> bool:
    """Whether a matrix product of ``x`` is as fast as a convolution.

    It is not in float32 on a GPU as torch is set by default: there only convolutions
    may use TF32.
    """
    if x.dtype != torch.float32 or x.device.type != "cuda":
        return True
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(
        matmul, "fp32_precision"
    ):  # since torch 2.9; not to be mixed with the old
        return matmul.fp32_precision == "tf32" or cudnn.conv.fp32_precision != "tf32"
    return matmul.allow_tf32 or not cudnn.allow_tf32
