"""Attention temperature of a whole network."""

from __future__ import annotations

from torch import nn

from odconv_det.layers.arguments import positive
from odconv_det.layers.base import TemperedAttention

__all__ = ["set_temperature"]


def set_temperature(module: nn.Module, value: float) -> int:
    """Set the temperature of every layer in ``module`` that has one; return how many.

    Detection and evaluation use 1, the default of every layer. ImageNet training of
    ODConv and DyConv anneals it from 30 to 1. It is no part of the state dict.

    Raises:
        ValueError: if ``value`` is not above 0.
    """
    value = positive("temperature", value)
    attentions = [m for m in module.modules() if isinstance(m, TemperedAttention)]
    for attention in attentions:
        attention.temperature = value
    return len(attentions)
