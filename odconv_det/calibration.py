"""Statistics for BatchNorms inside dynamic layers that start from static weights."""

from __future__ import annotations

import copy
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

    A BatchNorm may only shrink what it gets. DCD's second one sees next to nothing at
    the start (a variance of 2e-4 in MobileNetV2): made 70 times as large, and with
    nothing that holds it back in eval mode, it let training diverge within 60
    iterations.

    Args:
        network: in any mode.
        batches: images ``(B, 3, H, W)`` as the network takes them, ``B`` at least 2.

    Returns:
        How many batches there were; without any such BatchNorm none is looked at.

    Raises:
        ValueError: if no batch had two images; everything is then as it was.

    Example:
        >>> net.load_state_dict(inflate(static, net))
        >>> calibrate(net, (images for images, _ in itertools.islice(loader, 20)))
    """
    norms = inner_norms(network)
    if not norms:
        return 0
    modes = {module: module.training for module in network.modules()}
    before = {norm: (norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms}
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    seen, done = 0, False
    try:
        for images in batches:
            network(images)
            seen += len(images) > 1
        done = seen > 0
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, (momentum, state) in before.items():
            norm.momentum = momentum
            norm.running_var.clamp_(min=1)
            if not done:
                norm.load_state_dict(state)
    if not done:
        raise ValueError("no batch of two or more images to calibrate with")
    return seen
