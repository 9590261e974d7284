"""Feature attention behind the last BatchNorm of a residual block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AttendedNorm"]


class AttendedNorm(nn.Module):
    """``attention(norm(x))``, in the place of ``norm``.

    So the attention acts on a block's output before the shortcut is added, in any
    block, and no block has to be written anew.

    Shape:
        - input, output: ``(B, C, H, W)``
    """

    def __init__(self, norm: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.norm(x))

    def init_weights(self) -> None:
        """Draw the attention anew: a block's ``init_cfg`` may have meant the norm."""
        for module in self.attention.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    @torch.no_grad()
    def inflate_(self) -> None:
        """Compute what the norm alone does: it makes up for the attention's factor."""
        factor = self.attention.neutralize_()
        self.norm.weight.div_(factor)
        self.norm.bias.div_(factor)
