_base_ = "./faster-rcnn_mobilenetv2-odconv1x_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        kernel_num=4,
        init_cfg=dict(checkpoint="odconv://mobilenetv2_100_4x"),
    )
)
