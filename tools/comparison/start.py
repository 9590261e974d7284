"""The common start: neck and heads of a seed, and ImageNet weights inflated."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import mmcv
import torch
from demo import weights
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.runner.utils import set_random_seed
from torch import Tensor, nn

from odconv_det import calibrate, inflate
from odconv_det.checkpoints import largest_difference

__all__ = ["TOLERANCE", "starting_state"]

# Of the largest value of each map: rounding of float32 through 52 layers.
TOLERANCE = 1e-4
CALIBRATION_BATCH = 8


def starting_state(
    model: ConfigDict,
    static: ConfigDict,
    weight_file: bytes,
    scenes: Sequence[Path],
    seed: int,
) -> tuple[dict[str, Tensor], float]:
    """State dict that the detector ``model`` starts from.

    Neck and heads are those that the detector ``static`` draws with ``seed``: drawn
    after a dynamic backbone, the same seed would give others. The backbone computes
    what the static one computes with the ImageNet weights, which is verified.

    Args:
        model, static: Configs that differ in the backbone alone.
        weight_file: The static MobileNetV2 weights.
        scenes: Pictures for the statistics of BatchNorms that only the dynamic backbone
            has, two or more; the two are compared on the first.

    Returns:
        The state dict, and the largest difference of the maps.

    Raises:
        RuntimeError: The backbone computes something else.
    """
    reference, tensors = weights.load_static(weight_file)
    drawn = _detector(static, seed).state_dict()
    shared = {name: value for name, value in drawn.items() if not _of_backbone(name)}
    detector = _detector(model, seed)
    detector.backbone.load_state_dict(inflate(tensors, detector.backbone, seed=seed))
    detector.eval()
    images = _images(detector, scenes)
    calibrate(detector.backbone, images.split(CALIBRATION_BATCH))
    difference = largest_difference(reference, detector.backbone, images[:1])
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the inflated weights compute other maps: {difference:.1e}")
    state = detector.state_dict()
    if {name for name in state if not _of_backbone(name)} != set(shared):
        raise RuntimeError("the detectors differ in more than the backbone")
    return {**state, **shared}, difference


def _images(detector: nn.Module, scenes: Sequence[Path]) -> Tensor:
    pixels = [torch.from_numpy(mmcv.imread(str(path))) for path in scenes]
    inputs = [picture.permute(2, 0, 1) for picture in pixels]
    return detector.data_preprocessor({"inputs": inputs})["inputs"]


def _detector(model: ConfigDict, seed: int) -> nn.Module:
    set_random_seed(seed)
    detector = MODELS.build(deepcopy(model))  # building takes parts out
    detector.init_weights()
    return detector


def _of_backbone(name: str) -> bool:
    return name.startswith("backbone.")
