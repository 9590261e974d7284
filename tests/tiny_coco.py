"""A COCO data set of coloured rectangles, and configs that train on it in seconds."""

import json
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from PIL import Image

__all__ = ["FEW_ROIS", "TINY_RUN", "as_cfg_options", "write_tiny_coco"]

# The stock heads look at 512 RoIs of an image in training and at 1000 in testing, which
# takes a CPU seconds per image whatever the size of the image.
FEW_ROIS = {
    "model.train_cfg.rpn.sampler.num": 32,
    "model.train_cfg.rpn_proposal.nms_pre": 100,
    "model.train_cfg.rpn_proposal.max_per_img": 32,
    "model.train_cfg.rcnn.sampler.num": 16,
    "model.test_cfg.rpn.nms_pre": 100,
    "model.test_cfg.rpn.max_per_img": 16,
    "model.test_cfg.rcnn.score_thr": 0.0,
    "model.test_cfg.rcnn.max_per_img": 5,
    "model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio": 2,
}

# What turns a MobileNetV2 COCO config into a run of two iterations per epoch.
TINY_RUN = {
    **FEW_ROIS,
    "model.backbone.widen_factor": 0.25,
    "model.neck.in_channels": [8, 8, 24, 1280],
    "model.roi_head.bbox_head.fc_out_channels": 16,
    "train_dataloader.dataset.pipeline.2.scale": (96, 96),
    "test_dataloader.dataset.pipeline.1.scale": (96, 96),
    "val_dataloader.dataset.pipeline.1.scale": (96, 96),
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
    "train_cfg.max_epochs": 1,
    "default_hooks.logger.interval": 1,
}


def as_cfg_options(settings: dict) -> list[str]:
    """The settings as they are written after --cfg-options, which takes no spaces."""
    return [f"{key}={value}".replace(" ", "") for key, value in settings.items()]


def write_tiny_coco(root: Path, *, images: int = 4, size: int = 96) -> Path:
    """Write annotations/instances_{train,val}2017.json and {train,val}2017/ to `root`.

    Every image holds a person and a bicycle: rectangles, with their boxes and polygons.
    File and class names are those of COCO 2017, so its configs run on this unchanged.
    """
    random = np.random.default_rng(0)
    for split in ("train2017", "val2017"):
        folder = root / split
        folder.mkdir(parents=True)
        infos, annotations = [], []
        for image_id in range(1, images + 1):
            pixels = random.integers(0, 60, (size, size, 3), dtype=np.uint8)
            for category in (1, 2):
                width, height = (
                    int(v) for v in random.integers(size // 4, size // 2, 2)
                )
                left, top = (int(v) for v in random.integers(0, size // 2, 2))
                right, bottom = left + width, top + height
                pixels[top:bottom, left:right, category] += 150
                outline = [left, top, right, top, right, bottom, left, bottom]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=image_id,
                        category_id=category,
                        bbox=[left, top, width, height],
                        area=width * height,
                        segmentation=[outline],
                        iscrowd=0,
                    )
                )
            name = f"{image_id:012d}.png"
            Image.fromarray(pixels).save(folder / name)
            infos.append(dict(id=image_id, file_name=name, width=size, height=size))
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        names = CocoDataset.METAINFO["classes"]
        categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
        content = dict(images=infos, annotations=annotations, categories=categories)
        file.write_text(json.dumps(content))
    return root
