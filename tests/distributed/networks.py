"""Networks and images that all processes of a group and a single one build alike."""

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from odconv_det.calibration import inner_norms
from tests.calibrated import calibrate, pictures

__all__ = ["FROZEN", "SYNCED", "build_frozen", "build_normalizing", "images", "loss"]

BACKBONES = {
    "resnet": dict(type="DynamicResNet", depth=18, base_channels=8),
    "mobilenet": dict(type="DynamicMobileNetV2", widen_factor=0.25),
}
LAYERS = {
    "odconv": dict(type="ODConv2d", kernel_num=2),
    "condconv": dict(type="CondConv2d", kernel_num=2),
    "dyconv": dict(type="DyConv2d", kernel_num=2),
    "dcd": dict(type="DCDConv2d"),
    "cgc": dict(type="CGConv2d"),
}

# Backbone, layer, and whether frozen stages stop the attention as well.
FROZEN = [
    *((b, layer, True) for b in BACKBONES for layer in LAYERS if layer != "cgc"),
    *((b, "odconv", False) for b in BACKBONES),
]
# Layers that have BatchNorms inside, and how SyncBatchNorm gets into the network.
SYNCED = [
    *(("resnet", layer, "norm_cfg") for layer in ("odconv", "dcd", "cgc")),
    ("mobilenet", "odconv", "norm_cfg"),
    ("mobilenet", "odconv", "sync_bn"),
]


def _build(backbone: str, layer: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(dict(BACKBONES[backbone], dynamic=LAYERS[layer], **options))


def build_frozen(backbone: str, layer: str, freeze_attention: bool) -> nn.Module:
    """As detection recipes train: BatchNorm in eval mode, the first stage frozen."""
    network = _build(
        backbone,
        layer,
        norm_eval=True,
        frozen_stages=1,
        freeze_attention=freeze_attention,
    )
    calibrate(network)
    for norm in inner_norms(network):
        norm.running_var.clamp_(min=1)  # DCD's would explode, see odconv_det.calibrate
    return network.double().train()


def build_normalizing(backbone: str, layer: str, norm: str = "BN") -> nn.Module:
    """With every BatchNorm, of this type, in training mode."""
    network = calibrate(_build(backbone, layer, norm_eval=False))
    if norm != "BN":
        state = network.state_dict()
        norm_cfg = dict(type=norm)
        network = _build(backbone, layer, norm_eval=False, norm_cfg=norm_cfg)
        network.load_state_dict(state)
    return network.double().train()


def images(batch: int, step: int, size: int = 32) -> Tensor:
    """The batch of all processes together."""
    return pictures(batch, size, seed=step).double()


def loss(maps: tuple[Tensor, ...]) -> Tensor:
    """A mean over the batch, as DistributedDataParallel takes one over processes."""
    return sum(y.square().mean() for y in maps)
