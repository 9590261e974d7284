_base_ = "../baseline/mask-rcnn_r50_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        dynamic=dict(type="CondConv2d", kernel_num=8),
        where=dict(last_blocks=3),
        # From the static weights; a file of this network itself loads as well.
        init_cfg=dict(inflate=True),
    )
)
