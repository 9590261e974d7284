"""The paper's inference-speed table: whole ImageNet classifiers at 224 px."""

import copy
from typing import NamedTuple

import torch
from torch import nn

from analysis import imagenet, networks, settings
from odconv_det import fuse

__all__ = ["BATCHES", "PAPER", "paper_ratio", "variants"]

# Of a CPU and a GPU, as the paper has them.
BATCHES = {"cpu": 1, "cuda": 200}

_NAMES = {"resnet50": "ResNet-50", "mobilenetv2": "MobileNetV2 1.0x"}


class Speed(NamedTuple):
    """Images a second that the authors report: TITAN X at batch 200, CPU at batch 1."""

    cuda: float
    cpu: float


PAPER = {
    "resnet50": {
        "static": Speed(652.2, 6.4),
        "CondConv 8x": Speed(425.1, 4.0),
        "DyConv 4x": Speed(326.6, 3.8),
        "DCD": Speed(400.0, 3.6),
        "ODConv 1x": Speed(293.9, 3.9),
        "ODConv 4x": Speed(152.7, 2.5),
    },
    "mobilenetv2": {
        "static": Speed(1452.3, 17.3),
        "CondConv 8x": Speed(1076.9, 14.8),
        "DyConv 4x": Speed(918.2, 11.9),
        "DCD": Speed(875.7, 9.5),
        "ODConv 1x": Speed(1029.2, 12.8),
        "ODConv 4x": Speed(608.3, 11.2),
    },
}


def paper_ratio(network: str, system: str, device: str) -> float:
    """Time of a system over that of the static network, as the authors report it."""
    rows = PAPER[network]
    return getattr(rows["static"], device) / getattr(rows[system], device)


def variants(network: str) -> dict[tuple[str, str], nn.Module]:
    """Every system as it is built (``"ours"``) and after ``fuse`` (``"fused"``).

    The first is the static network as MMDetection runs it.
    """
    built = {}
    for system in PAPER[network]:
        ours = _build(network, system)
        built[system, "ours"] = ours
        built[system, "fused"] = fuse(copy.deepcopy(ours))
    return built


def _build(network: str, system: str) -> nn.Module:
    torch.manual_seed(0)
    name = _NAMES[network]
    model = imagenet.build(
        settings.backbone(name, system), settings.classifier(system), device="cpu"
    )
    networks.calibrate(model.backbone)
    return model.eval()
