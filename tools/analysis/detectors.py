"""Whole detectors to measure: Faster R-CNN with one of the measured backbones."""

from pathlib import Path

import torch
from torch import Tensor, nn

from analysis import networks

__all__ = ["build", "predict"]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = {"resnet50": "r50", "mobilenetv2": "mobilenetv2"}


def build(name: str, kernel_num: int, seed: int = 0) -> nn.Module:
    """Faster R-CNN with random weights, its backbone calibrated, in eval mode.

    ``kernel_num=0`` is MMDetection's own, with its static backbone.
    """
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    file = f"odconv/faster-rcnn_{NAMES[name]}-odconv1x_fpn_1x_coco.py"
    model = Config.fromfile(CONFIGS / file).model
    model.backbone.init_cfg = None
    torch.manual_seed(seed)
    detector = MODELS.build(model)
    detector.init_weights()
    # Only the backbones differ: the same calibrated ones as everywhere.
    detector.backbone = networks.build(name, kernel_num, seed=seed)
    return detector.eval()


def predict(detector: nn.Module, images: Tensor) -> object:
    """Boxes for normalised images ``(B, 3, H, W)``."""
    from mmdet.structures import DetDataSample

    size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=meta) for _ in images]
    return detector.predict(images, samples)
