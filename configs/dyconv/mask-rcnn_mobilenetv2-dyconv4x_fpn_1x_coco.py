_base_ = "../baseline/mask-rcnn_mobilenetv2_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        dynamic=dict(type="DyConv2d", kernel_num=4),
        # From the static weights; a file of this network itself loads as well.
        init_cfg=dict(inflate=True),
    )
)
