"""A switch for Triton kernels, and the three functions that it switches.

Each has the contract of the torch version beside it, and is that version wherever the
switch is off or triton cannot do it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import ExitStack
from types import ModuleType

import torch
from torch import Tensor

from odconv_det.core import kernels, pooling
from odconv_det.core.kernels import Scales

__all__ = ["attend", "modulate", "pool", "use_triton"]

# Triton 3.0 computes NaN where these kernels mask; 3.4 is the oldest that was tried.
LOWEST_TRITON = (3, 4)

_using: dict[str, ModuleType] = {}


def use_triton(enabled: bool = True) -> ExitStack:
    """Use Triton kernels on a GPU from now on, or within a ``with``.

    Mixing kernels uses them in training too, pooling and attention in fused networks.
    ``torch.compile`` takes none of them.

    Off unless asked for: the kernels are tested against torch in triton's interpreter,
    but nothing was measured on a GPU, so measure before you keep them. Not thread-safe.

    Raises:
        RuntimeError: if triton is not installed or older than 3.4.

    Example:
        >>> with use_triton():
        ...     y = fused_network(x)
    """
    before = dict(_using)
    if enabled:
        _using["kernels"] = _load()
    else:
        _using.clear()
    stack = ExitStack()
    stack.callback(_restore, before)
    return stack


def _load() -> ModuleType:
    try:
        module = importlib.import_module("odconv_det.core.triton_kernels")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise RuntimeError("triton is not installed: pip install triton") from error
    version = module.triton.__version__
    if tuple(map(int, version.split(".")[:2])) < LOWEST_TRITON:
        raise RuntimeError(
            f"triton {version} is too old, the kernels need 3.4, which comes with "
            "torch 2.8"
        )
    return module


def _restore(before: dict[str, ModuleType]) -> None:
    _using.clear()
    _using.update(before)


def _kernels(x: Tensor) -> ModuleType | None:
    """The Triton kernels, if they shall and can compute something of ``x``."""
    # The compiler has kernels of its own, and cannot see into these.
    if not _using or torch.compiler.is_compiling():
        return None
    if (x.requires_grad and torch.is_grad_enabled()) or not x.numel():
        return None
    triton_kernels = _using["kernels"]
    return triton_kernels if triton_kernels.available(x) else None


def pool(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean of each channel: :func:`odconv_det.core.pooling.global_average`."""
    fast = _kernels(x)
    return pooling.global_average(x, dtype) if fast is None else fast.pool(x, dtype)


def modulate(
    bank: Tensor, kernel: Tensor | None, scales: Scales, dtype: torch.dtype
) -> Tensor:
    """The kernel of each sample: :func:`odconv_det.core.kernels.modulate`."""
    fast = _kernels(bank)
    if fast is None:
        return kernels.modulate(bank, kernel, scales).to(dtype)
    return fast.modulate(bank, kernel, scales, dtype)


def attend(
    pooled: Tensor,
    trunk_weight: Tensor,
    trunk_bias: Tensor,
    head_weight: Tensor,
    head_bias: Tensor,
    sizes: Sequence[int],
) -> tuple[Tensor | None, ...] | None:
    """The attentions of a fused layer; ``None`` where torch shall compute them."""
    fast = _kernels(pooled)
    if fast is None:
        return None
    weights = trunk_weight, trunk_bias, head_weight, head_bias
    return fast.attend(pooled, *weights, sizes)
