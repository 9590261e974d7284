_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(imports=["odconv_det"], allow_failed_imports=False)

default_hooks = dict(
    # A crash at any moment leaves whole checkpoints.
    checkpoint=dict(type="SafeCheckpointHook", max_keep_ckpts=3, save_best="auto")
)
custom_hooks = [
    dict(type="CheckInvalidLossHook", interval=50),
    # A resumed run draws the random numbers of an uninterrupted one.
    dict(type="EpochSeedHook"),
    # Acts only where static weights are the start of a dynamic backbone.
    dict(type="CalibrateHook"),
    # Acts only where a resumed run has another number of processes or images.
    dict(type="BatchSizeHook"),
]
