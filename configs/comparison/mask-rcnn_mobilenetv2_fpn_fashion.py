# Mask R-CNN on composed scenes of garments, sized for one CPU core and some minutes.
# tools/compare.py makes the scenes, sets backbone, size, iterations and seed, and gives
# every backbone the same start.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["odconv_det"], allow_failed_imports=False)

# Neck and heads have a quarter of the stock width, and fixed sampling of few proposals
# and RoIs: the time goes into the backbone, which is what is compared.
width = 64
roi_layer = dict(sampling_ratio=2)
proposals = dict(nms_pre=500, max_per_img=100)
model = dict(
    backbone=dict(
        _delete_=True,
        type="DynamicMobileNetV2",
        norm_eval=True,  # two scenes are too few for BatchNorm statistics
    ),
    neck=dict(in_channels=[24, 32, 96, 1280], out_channels=width),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[4]),  # of 16 px to 256 px: scenes are small
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=roi_layer, out_channels=width),
        mask_roi_extractor=dict(roi_layer=roi_layer, out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=512, num_classes=10),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_classes=10),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=proposals,
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=proposals),
)

size = 192
dataset = dict(
    type="CocoDataset",
    data_root="data/fashion-scenes/192px_1000_200/",
    metainfo=dict(
        classes=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        )
    ),
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
            dict(type="RandomFlip", prob=0.5),
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
        ann_file="annotations/test.json",
        data_prefix=dict(img="test/"),
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(size, size), keep_ratio=True),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="PackDetInputs"),
        ],
        **dataset,
    ),
)
val_dataloader = test_dataloader
val_evaluator = dict(
    type="CocoMetric",
    ann_file="data/fashion-scenes/192px_1000_200/annotations/test.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator

max_iters = 400
warm_up = 20
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=warm_up),
    dict(
        type="CosineAnnealingLR",
        by_epoch=False,
        begin=warm_up,
        end=max_iters,
        T_max=max_iters - warm_up,
        eta_min=0,
    ),
]

default_hooks = dict(logger=dict(interval=10), checkpoint=None)
custom_hooks = [dict(type="CheckInvalidLossHook", interval=10)]
log_processor = dict(by_epoch=False, window_size=10)
randomness = dict(seed=0)
