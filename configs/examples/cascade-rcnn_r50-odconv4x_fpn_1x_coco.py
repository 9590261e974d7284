_base_ = [
    "mmdet::_base_/models/cascade-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

model = dict(
    backbone=dict(
        type="ODResNet",
        kernel_num=4,
        init_cfg=dict(checkpoint="odconv://resnet50_4x"),
    )
)
