"""A detector whose training takes milliseconds an iteration, for runs of many."""

from pathlib import Path
from textwrap import dedent

from tests.tiny_coco import write_tiny_coco

__all__ = ["write_tiny_detector"]

RUNTIME = Path(__file__).parents[1] / "configs" / "_base_" / "default_runtime.py"

CONFIG = """\
_base_ = {runtime!r}

model = dict(
    type="RetinaNet",
    data_preprocessor=dict(
        type="DetDataPreprocessor", mean=[30.0] * 3, std=[30.0] * 3, pad_size_divisor=32
    ),
    backbone=dict(type="ODResNet", depth=18, base_channels=4, kernel_num=2),
    neck=dict(
        type="FPN",
        in_channels=[4, 8, 16, 32],
        out_channels=8,
        start_level=2,
        num_outs=2,
    ),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        anchor_generator=dict(
            type="AnchorGenerator", scales=[2], ratios=[1.0], strides=[16, 32]
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True),
        loss_bbox=dict(type="L1Loss"),
    ),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4),
        sampler=dict(type="PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=20,
        score_thr=0.0,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=5,
    ),
)

pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=({size}, {size}), keep_ratio=True),
]
dataset = dict(
    type="CocoDataset",
    data_root="data/coco/",
    metainfo=dict(classes=("person", "bicycle")),
    ann_file="annotations/instances_train2017.json",
    data_prefix=dict(img="train2017/"),
    pipeline=[
        *pipeline,
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackDetInputs"),
    ],
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dataset,
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        dataset,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=[
            *pipeline,
            dict(
                type="PackDetInputs",
                meta_keys=("img_id", "ori_shape", "img_shape", "scale_factor"),
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoMetric", ann_file="data/coco/annotations/instances_val2017.json"
)
test_evaluator = val_evaluator

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type="MultiStepLR", milestones=[2], by_epoch=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=2)
randomness = dict(seed=0)
"""


def write_tiny_detector(
    folder: Path, extra: str = "", *, images: int = 4, size: int = 64
) -> Path:
    """Write config ``tiny.py`` and its data to ``folder``; returns the config.

    It inherits from the project's own runtime settings, so what those promise holds.
    ``extra`` is appended to the config.
    """
    write_tiny_coco(folder / "data" / "coco", images=images, size=size)
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(runtime=str(RUNTIME), size=size) + dedent(extra))
    return path
