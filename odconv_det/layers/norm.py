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

__all__ = ["build_norm", "is_batch_norm", "pooled_batch_norm"]

# As mmcv writes them: a name, a name with its scope, or the class itself.
_NORMS: dict[object, type[_BatchNorm]] = {
    "BN": nn.BatchNorm2d,
    "BN2d": nn.BatchNorm2d,
    nn.BatchNorm2d: nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    nn.SyncBatchNorm: nn.SyncBatchNorm,
}


def is_batch_norm(norm_cfg: Mapping[str, Any]) -> bool:
    """Whether :func:`build_norm` knows the type of this ``norm_cfg``."""
    return _unscoped(norm_cfg["type"]) in _NORMS


def build_norm(norm_cfg: Mapping[str, Any] | None, num_features: int) -> _BatchNorm:
    """BatchNorm as OpenMMLab's ``norm_cfg`` describes it; ``None`` is ``type='BN'``.

    Raises:
        ValueError: if the type is neither ``'BN'`` nor ``'SyncBN'``, or an option is
            none of BatchNorm's.
    """
    if norm_cfg is None:
        norm_cfg = {"type": "BN"}
    if not isinstance(norm_cfg, Mapping) or "type" not in norm_cfg:
        raise ValueError(f"norm_cfg must be a dict with a type, got {norm_cfg!r}")
    if not is_batch_norm(norm_cfg):
        raise ValueError(
            f"norm_cfg type must be 'BN' or 'SyncBN', got {norm_cfg['type']!r}: "
            "the attention of a dynamic convolution is normalised over the batch"
        )
    options = dict(norm_cfg)
    cls = _NORMS[_unscoped(options.pop("type"))]
    requires_grad = options.pop("requires_grad", True)
    if not options.get("track_running_stats", True):
        raise ValueError(
            f"norm_cfg {dict(norm_cfg)} has no running statistics, which a batch of "
            "one sample needs"
        )
    try:
        norm = cls(num_features, **options)
    except TypeError as error:
        raise ValueError(f"norm_cfg {dict(norm_cfg)}: {error}") from None
    return norm.requires_grad_(requires_grad)


def _unscoped(kind: object) -> object:
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind


def pooled_batch_norm(norm: _BatchNorm, z: Tensor) -> Tensor:
    """``norm(z)`` that also trains at batch size 1 (and survives an empty batch).

    One value per channel has no variance, and ``nn.BatchNorm2d`` raises; here it is
    normalised with the running statistics, which then stay as they are. SyncBatchNorm
    with peers sees their values too, and must take part in the exchange.

    Shape:
        - z: ``(B, C)`` or ``(B, C, ...)``, output the same
    """
    alone = z.numel() < 2 * z.shape[1] and not _has_peers(norm)
    if norm.training and not alone:
        # BatchNorm2d wants a map.
        maps = z if z.dim() == 4 else z.reshape(*z.shape[:2], -1, 1)
        return norm(maps).view_as(z)
    if norm.training and not torch.compiler.is_compiling():
        _say_once()
    return F.batch_norm(
        z, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )


def _has_peers(norm: _BatchNorm) -> bool:
    if not isinstance(norm, nn.SyncBatchNorm):
        return False
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return False
    return dist.get_world_size(norm.process_group) > 1


@functools.lru_cache(maxsize=1)
def _say_once() -> None:
    warnings.warn(
        "training with fewer than two samples in a batch: the BatchNorm of the "
        "attention uses its running statistics (said once)",
        stacklevel=2,
    )
