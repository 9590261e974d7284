_base_ = "../baseline/faster-rcnn_mobilenetv2_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        dynamic=dict(type="CondConv2d", kernel_num=8),
        where=dict(last_blocks=6),
        # From the static weights; a file of this network itself loads as well.
        init_cfg=dict(inflate=True),
    )
)
