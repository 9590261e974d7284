# Mask R-CNN on HeLa nuclei, sized for two CPU cores and a few minutes.
# tools/demo/run.py fetches and prepares the data and the weights.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/default_runtime.py",
]

# Fixed sampling, 200 proposals and 64 RoIs an image: with the stock counts an iteration
# takes seven times as long on a CPU.
roi_layer = dict(sampling_ratio=2)
proposals = dict(nms_pre=1000, max_per_img=200)
model = dict(
    backbone=dict(
        _delete_=True,
        type="ODMobileNetV2",
        kernel_num=4,
        norm_eval=True,  # two tiles are too few for BatchNorm statistics
        init_cfg=dict(
            type="Pretrained",
            checkpoint="data/weights/mobilenetv2_100_4x_inflated.safetensors",
        ),
    ),
    neck=dict(in_channels=[24, 32, 96, 1280]),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=roi_layer),
        mask_roi_extractor=dict(roi_layer=roi_layer),
        bbox_head=dict(num_classes=1),
        mask_head=dict(num_classes=1),
    ),
    train_cfg=dict(rpn_proposal=proposals, rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=proposals),
)

# For training and testing, which must see objects in the same size; that of the tiles.
resize = dict(type="Resize", scale=(256, 256), keep_ratio=True)
dataset = dict(
    type="CocoDataset",
    data_root="data/hela/",
    metainfo=dict(classes=("nucleus",), palette=[(220, 20, 60)]),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        ann_file="annotations/train.json",
        data_prefix=dict(img="train/"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            resize,
            dict(
                type="RandomFlip",
                prob=[0.25, 0.25, 0.25],
                direction=["horizontal", "vertical", "diagonal"],
            ),
            dict(type="PackDetInputs"),
        ],
        **dataset,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        ann_file="annotations/val.json",
        data_prefix=dict(img="val/"),
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            resize,
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="PackDetInputs"),
        ],
        **dataset,
    ),
)
val_dataloader = test_dataloader
val_evaluator = dict(
    type="CocoMetric",
    ann_file="data/hela/annotations/val.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator

max_iters = 120
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    # One pass over the weights instead of a dozen: 0.2 s of an iteration on a CPU.
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(
        type="CosineAnnealingLR",
        by_epoch=False,
        begin=10,
        end=max_iters,
        T_max=max_iters - 10,
        eta_min=0,
    ),
]

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=30, save_best=None),
)
log_processor = dict(by_epoch=False, window_size=10)
randomness = dict(seed=0)
