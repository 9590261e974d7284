"""Static weights as the start of a dynamic network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from odconv_det.checkpoints.errors import CheckpointError
from odconv_det.checkpoints.keys import backbone_tensors, from_release
from odconv_det.checkpoints.verify import mismatch
from odconv_det.layers import AttendedNorm, DynamicConv2d
from odconv_det.surgery import put

__all__ = ["inflate", "largest_difference", "static_twin"]


def inflate(
    static: Mapping[str, Tensor],
    network: nn.Module,
    *,
    noise: float = 0.1,
    seed: int = 0,
) -> dict[str, Tensor]:
    """State dict for ``network`` that computes what the static network computes.

    Every dynamic layer gets the static kernel and a constant attention that it learns
    to leave (:meth:`odconv_det.layers.DynamicConv2d.inflate_`), and the BatchNorm in
    front of a feature attention makes up for it. The network itself stays as it is.

    Args:
        static: of the same network without dynamic layers, under the names of
            MMDetection, torchvision, timm (ResNet) or the authors' release; a whole
            detector or an ImageNet classifier is taken without the rest.
        network: with the dynamic layers.
        noise: tells the kernels of a bank apart, relative to the standard deviation of
            the static kernel, without changing the function.
        seed: of the noise.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
        ValueError: if ``noise`` is negative or not finite.
    """
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"noise must be at least 0 and finite, got {noise!r}")
    static = _fitting(static, network)
    network = copy.deepcopy(network)
    layers, norms = _layers(network), _norms(network)
    generator = torch.Generator().manual_seed(seed)
    for name, layer in layers.items():
        kernel = static[f"{name}.weight"]
        layer.inflate_(kernel, noise=noise, generator=generator)
    kernels = {f"{name}.weight" for name in layers}
    rest = {
        _own_name(key, norms): tensor
        for key, tensor in static.items()
        if key not in kernels
    }
    network.load_state_dict(rest, strict=False)
    for norm in dict.fromkeys(norms.values()):  # one may have two names
        norm.inflate_()
    return network.state_dict()


def static_twin(static: Mapping[str, Tensor], network: nn.Module) -> nn.Module:
    """The network in eval mode without its dynamic layers, with these weights.

    What an inflated network is to be compared with.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
    """
    static = _fitting(static, network)
    twin = copy.deepcopy(network)
    for name, layer in _layers(twin).items():
        size = layer.in_channels, layer.out_channels, layer.kernel_size
        conv = nn.Conv2d(*size, *layer.geometry, bias=layer.bias is not None)
        put(twin, name, conv.to(layer.weight))
    for name, attended in _norms(twin).items():
        put(twin, name, attended.norm)
    twin.load_state_dict(static)
    twin.eval()  # MMDetection's own return nothing
    return twin


@torch.no_grad()
def largest_difference(
    expected: nn.Module, network: nn.Module, images: Tensor
) -> float:
    """Largest difference of two backbones' maps, relative to each map's largest value.

    Shape:
        - images: (B, 3, H, W), normalised
    """
    pairs = zip(expected(images), network(images), strict=True)
    # In torch, because Python's max passes over nan.
    ratios = [(b - a).abs().max() / a.abs().max() for a, b in pairs]
    return torch.stack(ratios).max().item()


def _fitting(static: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The static weights under the network's names, all of them and no other."""
    expected = _expected(network)
    plain = {key.removeprefix("module."): tensor for key, tensor in static.items()}
    # As they are for the library's own network, else renamed for MMDetection's.
    for tensors in (plain, backbone_tensors(from_release(static))):
        tensors = {**_counters(expected, tensors), **tensors}
        difference = mismatch(expected, tensors)
        if not difference:
            return tensors
    if any(".attention." in key for key in static):
        raise CheckpointError(
            "these are weights of a dynamic network: load them as they are"
        )
    raise CheckpointError(f"the static weights do not fit: {difference}")


def _counters(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Of the BatchNorms in the file: old files have none, and they are hardly read."""
    suffix = "num_batches_tracked"
    return {
        key: torch.tensor(0)
        for key in expected
        if key.endswith(suffix) and f"{key.removesuffix(suffix)}running_mean" in tensors
    }


def _expected(network: nn.Module) -> dict[str, Tensor]:
    """What the static network's state dict would hold, with tensors of its shapes."""
    layers, norms = _layers(network), _norms(network)
    own = {
        f"{name}.{key}"
        for name, module in (layers | norms).items()
        for key in module.state_dict()
    }
    expected = {k: t for k, t in network.state_dict().items() if k not in own}
    for name, layer in layers.items():
        expected[f"{name}.weight"] = layer.weight.new_zeros(layer.kernel_shape)
        if layer.bias is not None:
            expected[f"{name}.bias"] = layer.bias
    for name, attended in norms.items():
        for key, tensor in attended.norm.state_dict().items():
            expected[f"{name}.{key}"] = tensor
    return expected


def _layers(network: nn.Module) -> dict[str, DynamicConv2d]:
    modules = network.named_modules(remove_duplicate=False)
    return {name: m for name, m in modules if isinstance(m, DynamicConv2d)}


def _norms(network: nn.Module) -> dict[str, AttendedNorm]:
    modules = network.named_modules(remove_duplicate=False)
    return {name: m for name, m in modules if isinstance(m, AttendedNorm)}


def _own_name(key: str, norms: Mapping[str, AttendedNorm]) -> str:
    """Where a static tensor is in the dynamic network."""
    parent, _, name = key.rpartition(".")
    return f"{parent}.norm.{name}" if parent in norms else key
