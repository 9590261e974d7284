_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        # MMDetection's own, with BatchNorm of the frozen stem in eval mode as well, and
        # with weights that all load or stop the training.
        type="DynamicMobileNetV2",
        out_indices=(1, 2, 4, 7),
        frozen_stages=2,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="odconv://mobilenetv2_100"),
    ),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
