_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(imports=["odconv_det"], allow_failed_imports=False)

# The oldest checkpoint is deleted before the next one is written, so a full disk or a
# preempted job in that moment costs one file: keep more than one, and the best.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="auto"))
custom_hooks = [
    dict(type="CheckInvalidLossHook", interval=50),
    # Acts only where static weights are the start of a dynamic backbone.
    dict(type="CalibrateHook"),
    # Acts only where a resumed run has another number of processes or images.
    dict(type="BatchSizeHook"),
]
