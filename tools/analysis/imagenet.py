"""Backbones as ImageNet classifiers, which is what the paper's first tables count."""

from collections.abc import Mapping
from typing import Any

import torch
from mmdet.models.backbones import MobileNetV2
from mmdet.registry import MODELS
from torch import Tensor, nn

import odconv_det.plugin  # noqa: F401  (registers)

__all__ = ["ImageNetClassifier", "build", "build_classifier"]

CLASSES = 1000
STATIC = dict(type="Linear")

Config = Mapping[str, Any]


class ImageNetClassifier(nn.Module):
    """A backbone, global average pooling, and a classifier.

    Shape:
        - input: ``(B, 3, H, W)``
        - output: ``(B, 1000)``
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.backbone(x)[-1].mean((2, 3), keepdim=True)
        if isinstance(self.classifier, nn.Linear):
            return self.classifier(pooled.flatten(1))
        return self.classifier(pooled).flatten(1)


def build(
    backbone: Config, classifier: Config = STATIC, device: str = "meta"
) -> ImageNetClassifier:
    """Build both, on the meta device without values.

    Args:
        backbone: the config of one of this package's backbones.
        classifier: ``dict(type='Linear')``, or the layer that is a 1x1 convolution of
            the pooled map.
        device: ``"cpu"`` draws values.
    """
    with torch.device(device):
        built = MODELS.build(dict(backbone))
        width = 1280 if isinstance(built, MobileNetV2) else built.feat_dim
        return ImageNetClassifier(built, build_classifier(width, classifier))


def build_classifier(width: int, classifier: Config = STATIC) -> nn.Module:
    """The classifier of so many channels, on the current device."""
    if classifier["type"] == "Linear":
        return nn.Linear(width, CLASSES)
    geometry = dict(in_channels=width, out_channels=CLASSES, kernel_size=1)
    return MODELS.build({**classifier, **geometry})
