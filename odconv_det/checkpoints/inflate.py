"""Static weights as the start of a dynamic network."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from odconv_det.checkpoints.errors import CheckpointError
from odconv_det.checkpoints.verify import mismatch
from odconv_det.layers import ODConv2d

__all__ = ["inflate"]


def inflate(
    static: Mapping[str, Tensor],
    network: nn.Module,
    *,
    noise: float = 0.1,
    seed: int = 0,
) -> dict[str, Tensor]:
    """State dict for ``network`` that computes what the static network computes.

    ``static`` has the network's own names with one 4-D kernel in the place of each
    bank. ``noise`` tells the kernels of a bank apart without changing the function (see
    :meth:`odconv_det.ODConv2d.inflate_`). The network itself stays as it is.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
    """
    network = copy.deepcopy(network)
    dynamic = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, ODConv2d)
    }
    state = network.state_dict()
    attention = {
        f"{name}.attention.{key}"
        for name, layer in dynamic.items()
        for key in layer.attention.state_dict()
    }
    banks = {f"{name}.weight": layer for name, layer in dynamic.items()}
    expected = {
        key: tensor[0] if key in banks else tensor
        for key, tensor in state.items()
        if key not in attention
    }
    difference = mismatch(expected, static)
    if difference:
        raise CheckpointError(f"the static weights do not fit: {difference}")
    generator = torch.Generator().manual_seed(seed)
    for key, layer in banks.items():
        layer.inflate_(static[key], noise=noise, generator=generator)
    rest = {key: static[key] for key in expected if key not in banks}
    network.load_state_dict(rest, strict=False)
    return network.state_dict()
