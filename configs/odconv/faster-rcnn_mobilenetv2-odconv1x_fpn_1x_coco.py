_base_ = "../baseline/faster-rcnn_mobilenetv2_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        type="ODMobileNetV2",
        kernel_num=1,
        init_cfg=dict(checkpoint="odconv://mobilenetv2_100_1x"),
    )
)
