"""Attention temperature of a whole network."""

from __future__ import annotations

from torch import nn

from odconv_det.layers.arguments import positive
from odconv_det.layers.base import TemperedAttention
from odconv_det.layers.odconv import FusedODAttention

__all__ = ["set_temperature"]


def set_temperature(module: nn.Module, value: float) -> int:
    """Set the temperature of every layer in ``module`` that has one; return how many.

    Detection and evaluation use 1, the default of every layer. ImageNet training of
    ODConv and DyConv anneals it from 30 to 1. It is no part of the state dict.

    Raises:
        ValueError: if ``value`` is not above 0.
        RuntimeError: if ``module`` is fused: the temperature is part of its weights.
    """
    value = positive("temperature", value)
    if any(isinstance(m, FusedODAttention) for m in module.modules()):
        raise RuntimeError(
            "the network is fused, and its temperature is part of its weights: set it "
            "before fuse()"
        )
    attentions = [m for m in module.modules() if isinstance(m, TemperedAttention)]
    for attention in attentions:
        attention.temperature = value
    return len(attentions)
