"""Statistics for BatchNorms inside dynamic layers that start from static weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.layers import DynamicConv2d

__all__ = ["calibrate", "inner_norms"]


def inner_norms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms that the static network does not have."""
    layers = (m for m in network.modules() if isinstance(m, DynamicConv2d))
    norms = (m for layer in layers for m in layer.modules())
    return list(dict.fromkeys(m for m in norms if isinstance(m, _BatchNorm)))


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Give the BatchNorms inside dynamic layers the mean statistics of some batches.

    After :func:`odconv_det.inflate` they have seen no data. Training updates them, but
    not where BatchNorm is kept in eval mode, as detection recipes do. What an inflated
    network computes does not change, because its attention is constant. Everything
    else stays as it is.

    Args:
        network: in any mode.
        batches: images ``(B, 3, H, W)`` as the network takes them, ``B`` at least 2.

    Returns:
        How many BatchNorms there are; without any, no batch is looked at.

    Raises:
        ValueError: if there is no batch.

    Example:
        >>> net.load_state_dict(inflate(static, net))
        >>> calibrate(net, (images for images, _ in itertools.islice(loader, 20)))
    """
    norms = inner_norms(network)
    if not norms:
        return 0
    modes = {module: module.training for module in network.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    seen = 0
    try:
        for images in batches:
            network(images)
            seen += 1
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    if not seen:
        raise ValueError("no batch to calibrate with")
    return len(norms)
