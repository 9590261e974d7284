_base_ = "../baseline/faster-rcnn_r50_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        type="ODResNet",
        kernel_num=1,
        init_cfg=dict(checkpoint="odconv://resnet50_1x"),
    )
)
