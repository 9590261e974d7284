_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

model = dict(
    backbone=dict(
        # MMDetection's own, with weights that all load or stop the training.
        type="DynamicResNet",
        init_cfg=dict(checkpoint="odconv://resnet50"),
    )
)
