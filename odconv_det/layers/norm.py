"""BatchNorm of an attention trunk, where each sample is a single value per channel."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["build_norm", "pooled_batch_norm"]

_NORMS: dict[str, type[_BatchNorm]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
}


def build_norm(norm_cfg: Mapping[str, Any] | None, num_features: int) -> _BatchNorm:
    """BatchNorm as OpenMMLab's ``norm_cfg`` describes it; ``None`` is ``type='BN'``.

    Raises:
        ValueError: if the type is neither ``'BN'`` nor ``'SyncBN'``.
    """
    cfg = {"type": "BN", **(norm_cfg or {})}
    kind = cfg.pop("type")
    if kind not in _NORMS:
        raise ValueError(
            f"norm_cfg type must be one of {sorted(_NORMS)}, got {kind!r}: "
            "the attention of a dynamic convolution is normalised over the batch"
        )
    requires_grad = cfg.pop("requires_grad", True)
    return _NORMS[kind](num_features, **cfg).requires_grad_(requires_grad)


def pooled_batch_norm(norm: nn.Module, z: Tensor) -> Tensor:
    """``norm(z)`` that also trains at batch size 1 (and survives an empty batch).

    One value per channel has no variance, and ``nn.BatchNorm2d`` raises; here it is
    normalised with the running statistics, which then stay as they are. SyncBatchNorm
    with peers sees their values too, and must take part in the exchange.

    Shape:
        - z: ``(B, C, 1, 1)``, output the same
    """
    if not (isinstance(norm, _BatchNorm) and norm.training and z.shape[0] < 2):
        return norm(z)
    if isinstance(norm, nn.SyncBatchNorm) and _has_peers():
        return norm(z)
    if not torch.compiler.is_compiling():
        _say_once()
    return F.batch_norm(
        z, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )


def _has_peers() -> bool:
    dist = torch.distributed
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@functools.cache
def _say_once() -> None:
    warnings.warn(
        "training with fewer than two samples in a batch: the BatchNorm of the "
        "attention uses its running statistics (said once)",
        stacklevel=2,
    )
