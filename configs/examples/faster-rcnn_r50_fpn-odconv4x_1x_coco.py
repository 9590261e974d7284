# A static backbone under a neck whose 3x3 convolutions are dynamic.
_base_ = "../baseline/faster-rcnn_r50_fpn_1x_coco.py"

model = dict(
    neck=dict(
        _delete_=True,
        type="Dynamic",
        part=dict(
            type="FPN",
            in_channels=[256, 512, 1024, 2048],
            out_channels=256,
            num_outs=5,
        ),
        dynamic=dict(type="ODConv2d", kernel_num=4),
        where=dict(kernel_sizes=(3,)),
    )
)
