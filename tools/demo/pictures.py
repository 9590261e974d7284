"""Pictures of val tiles: the ground truth on the left, the prediction on the right."""

from collections.abc import Iterable
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData
from torch import nn
from torch.utils.data import Dataset

__all__ = ["draw", "side_by_side"]

# Nuclei are about 28 px across: lines need a larger picture to be told apart.
ZOOM = 3
MIN_SCORE = 0.5
WHITE_GAP = 12


def draw(
    model: nn.Module, dataset: Dataset, numbers: Iterable[int], folder: Path
) -> list[Path]:
    """Predict some tiles of ``dataset`` and write one picture for each.

    ``dataset`` must hand out the ground truth (boxes and masks) with its images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in numbers:
        item = dataset[number]
        batch = {"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]}
        with torch.no_grad():
            sample = model.test_step(batch)[0].cpu()
        path = folder / Path(sample.img_path).name
        mmcv.imwrite(side_by_side(mmcv.imread(sample.img_path), sample), str(path))
        paths.append(path)
    return paths


def side_by_side(image: np.ndarray, sample: DetDataSample) -> np.ndarray:
    """Draw a sample's ground truth and its predictions onto two copies of ``image``.

    Every nucleus gets a colour of its own, from left to right, so that touching ones
    stay apart and a nucleus has about the same colour on both sides.

    Shape:
        - image: (H, W, 3)
        - output: (ZOOM * H, 2 * ZOOM * W + WHITE_GAP, 3)
    """
    large = mmcv.imrescale(image, ZOOM)
    found = sample.pred_instances
    truth = _draw_instances(large, sample.gt_instances)
    prediction = _draw_instances(large, found[found.scores >= MIN_SCORE])
    gap = np.full((large.shape[0], WHITE_GAP, 3), 255, np.uint8)
    return np.hstack([truth, gap, prediction])


def _draw_instances(image: np.ndarray, instances: InstanceData) -> np.ndarray:
    visualizer = DetLocalVisualizer(image=image)
    if len(instances) == 0:
        return visualizer.get_image()
    masks = instances.masks
    masks = masks.numpy() if torch.is_tensor(masks) else masks.to_ndarray()
    masks = np.stack([mmcv.imrescale(mask.astype(np.uint8), ZOOM) for mask in masks])
    boxes = torch.as_tensor(getattr(instances.bboxes, "tensor", instances.bboxes))
    colors = [_color(float(x)) for x in boxes[:, 0] * ZOOM / image.shape[1]]
    visualizer.draw_binary_masks(masks.astype(bool), colors=colors, alphas=0.4)
    visualizer.draw_bboxes(boxes * ZOOM, edge_colors=colors, line_widths=2)
    return visualizer.get_image()


def _color(position: float) -> tuple[int, int, int]:
    """A saturated colour for a position in [0, 1]; near ones differ clearly."""
    hue = np.array([[[(position * 7 % 1) * 360, 1, 1]]], np.float32)
    red, green, blue = (255 * mmcv.hsv2bgr(hue)[0, 0, ::-1]).astype(int)
    return int(red), int(green), int(blue)
