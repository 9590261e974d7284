_base_ = "../baseline/faster-rcnn_r50_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        dynamic=dict(type="DyConv2d", kernel_num=4),
        where=dict(shortcuts=True),
        # From the static weights; a file of this network itself loads as well.
        init_cfg=dict(inflate=True),
    )
)
