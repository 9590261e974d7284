"""Random networks whose maps are as well conditioned as those of trained ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.layers import ODAttention

__all__ = ["calibrate", "pictures"]


def pictures(
    batch: int, height: int, width: int | None = None, seed: int = 0
) -> Tensor:
    """Images that differ from each other in colour, contrast and detail."""
    width = height if width is None else width
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(batch, 3, height, width)
    for cells in (2, 5, 16):
        coarse = torch.randn(batch, 3, cells, cells, generator=generator)
        images += F.interpolate(coarse, size=(height, width), mode="bilinear")
    contrast = 0.5 + torch.rand(batch, 1, 1, 1, generator=generator)
    return images * contrast + 0.5 * torch.randn(batch, 3, 1, 1, generator=generator)


@torch.no_grad()
def calibrate(network: nn.Module, size: int = 64) -> nn.Module:
    """Give the network's BatchNorms the statistics of some images; return it in eval.

    Without that, activations die out or explode, and so do rounding errors. Affine
    parameters and biases are drawn away from 1 and 0, attentions depend on the image.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(low: float, high: float, value: Tensor) -> None:
        value.copy_(low + (high - low) * torch.rand(value.shape, generator=generator))

    network.eval()
    inside = set()
    for attention in network.modules():
        if isinstance(attention, ODAttention):
            inside.add(attention.bn)
            for head in attention.heads():
                if head is not None:
                    std = 0.02 * head.weight.shape[1] ** -0.5
                    noise = torch.randn(head.weight.shape, generator=generator)
                    head.weight.copy_(std * noise)
                    draw(-0.5, 0.5, head.bias)
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module not in inside
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
        if norm.affine:
            draw(0.75, 1.25, norm.weight)
            draw(-0.25, 0.25, norm.bias)
    network(pictures(4, size, seed=1))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        # A channel that is always the same would have its rounding errors amplified.
        norm.running_var.clamp_(min=0.01 * norm.running_var.mean().item())
    network.eval()
    return network
