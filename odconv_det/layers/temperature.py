"""Attention temperature of a whole network."""

from __future__ import annotations

from torch import nn

from odconv_det.layers.odconv import ODAttention, checked_temperature

__all__ = ["set_temperature"]


def set_temperature(module: nn.Module, value: float) -> int:
    """Set the temperature of every dynamic layer in ``module``; return how many.

    Detection and evaluation use 1, the default of every layer. ImageNet training of the
    release anneals it from 30 to 1. It is no part of the state dict.

    Raises:
        ValueError: if ``value`` is not above 0.
    """
    value = checked_temperature(value)
    attentions = [m for m in module.modules() if isinstance(m, ODAttention)]
    for attention in attentions:
        attention.temperature = value
    return len(attentions)
