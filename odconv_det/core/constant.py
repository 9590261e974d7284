"""Values that a module for inference keeps."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["constant"]


def constant(value: Tensor) -> nn.Parameter:
    """A copy of ``value`` as a parameter that asks for no gradient."""
    return nn.Parameter(value.detach().clone(), requires_grad=False)
