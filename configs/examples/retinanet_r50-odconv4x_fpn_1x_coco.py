# A detector of one stage, with the backbone dynamic in its last two stages only.
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

model = dict(
    backbone=dict(
        type="DynamicResNet",
        dynamic=dict(type="ODConv2d", kernel_num=4),
        where=dict(stages=(3, 4)),
        init_cfg=dict(checkpoint="odconv://resnet50", inflate=True),
    )
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
