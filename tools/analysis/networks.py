"""The networks that are measured: the same weights in every variant.

Random weights behave unlike trained ones: activations fade into denormal numbers, which
a CPU computes a hundred times slower, or explode. So BatchNorm is calibrated by real
passes in training mode, and the attention's heads start small.
"""

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det import ODConv2d, swap
from odconv_det.folding import fold_batch_norms
from odconv_det.layers import ODAttention

__all__ = ["NETWORKS", "build", "calibrate", "for_training", "images"]

NETWORKS = ("resnet50", "mobilenetv2")
HEAD_GAIN = 0.02


def images(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Noise of six octaves, each image with its own mixture: ``(B, 3, H, W)``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(batch, 3, 1, 1).expand(-1, -1, height, width).clone()
    for octave in range(6):
        step = 2**octave
        coarse = normal(batch, 3, -(-height // step), -(-width // step))
        fine = F.interpolate(coarse, scale_factor=float(step), mode="bilinear")
        gain = torch.rand(batch, 1, 1, 1, generator=generator)
        x += gain * fine[..., :height, :width]
    return x


def build(name: str, kernel_num: int, *, seed: int = 0) -> nn.Module:
    """A calibrated backbone in eval mode, which returns its maps of stride 4 to 32.

    ``kernel_num=0`` is the static network. MMDetection's networks where it is
    installed, else torchvision's.

    Raises:
        ValueError: if the name is not one of ``NETWORKS``.
    """
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {NETWORKS}, got {name!r}")
    torch.manual_seed(seed)
    if importlib.util.find_spec("mmdet"):
        network = _from_mmdet(name, kernel_num)
    else:
        network = _from_torchvision(name, kernel_num)
    return calibrate(network)


def _from_mmdet(name: str, kernel_num: int) -> nn.Module:
    from mmdet.models.backbones import MobileNetV2, ResNet

    from odconv_det.plugin.backbones import ODMobileNetV2, ODResNet

    if name == "resnet50":
        if kernel_num:
            return ODResNet(50, kernel_num=kernel_num)
        return ResNet(50)
    return ODMobileNetV2(kernel_num=kernel_num) if kernel_num else MobileNetV2()


class _Maps(nn.Module):
    """A torchvision network as a chain of stages; returns what each gives."""

    def __init__(self, stem: nn.Module, *stages: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


def _from_torchvision(name: str, kernel_num: int) -> nn.Module:
    import torchvision

    if name == "resnet50":
        net = torchvision.models.resnet50(weights=None)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        network = _Maps(stem, net.layer1, net.layer2, net.layer3, net.layer4)
    else:
        layers = torchvision.models.mobilenet_v2(weights=None).features
        parts = [layers[a:b] for a, b in ((0, 1), (1, 4), (4, 7), (7, 14))]
        network = _Maps(*parts, layers[14:])
    if kernel_num:
        swap(
            network,
            lambda name, conv: "stem" not in name and "downsample" not in name,
            ODConv2d,
            kernel_num=kernel_num,
        )
        fold_batch_norms(network)
    return network


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and ".attention." not in name
    ]


@torch.no_grad()
def calibrate(network: nn.Module) -> nn.Module:
    """Small attention heads, and BatchNorm statistics of real passes; in place."""
    for module in network.modules():
        if isinstance(module, ODAttention):
            for head in module.heads():
                head.weight.normal_(0, HEAD_GAIN / head.weight.shape[1] ** 0.5)
    network.eval()
    norms = _norms(network)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average over all passes
        norm.train()
    for seed in range(2):
        network(images(8, 224, 224, seed))
    for norm in norms:
        # A channel that is always the same would have its rounding errors amplified.
        norm.running_var.clamp_(min=0.01 * norm.running_var.mean().item())
    network.eval()  # MMDetection's return nothing
    return network


def for_training(network: nn.Module) -> nn.Module:
    """As the detection recipe trains it: BatchNorm in eval mode, frozen to stride 4."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    for name, parameter in network.named_parameters():
        if name.startswith(_FROZEN[_kind(network)]):
            parameter.requires_grad_(False)
    return network


# Names of what comes before the first map of stride 4, that map's stage included.
_FROZEN = {
    "mmdet ResNet": ("conv1.", "bn1.", "layer1."),
    "mmdet MobileNetV2": ("conv1.", "layer1.", "layer2."),
    "torchvision": ("stem.", "stages.0."),
}


def _kind(network: nn.Module) -> str:
    if isinstance(network, _Maps):
        return "torchvision"
    return "mmdet MobileNetV2" if hasattr(network, "layer7") else "mmdet ResNet"
