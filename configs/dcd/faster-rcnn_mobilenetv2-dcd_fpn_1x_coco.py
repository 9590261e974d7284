_base_ = "../baseline/faster-rcnn_mobilenetv2_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        dynamic=dict(type="DCDConv2d", kind="inverted_residual"),
        # The 1x1 convolutions of the blocks that expand.
        where=dict(stages=(2, 3, 4, 5, 6, 7), kernel_sizes=(1,)),
        # From the static weights; a file of this network itself loads as well.
        init_cfg=dict(inflate=True),
    )
)
