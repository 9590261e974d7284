"""The glue to MMDetection: the only part that imports mmengine, mmcv and mmdet."""

from mmengine.registry import MODELS

from odconv_det.layers import ODConv2d
from odconv_det.plugin import backbones, hooks, pretrained

__all__ = ["backbones", "hooks", "pretrained"]

# In the root registry, where mmcv's own convolutions are: every `conv_cfg` finds it.
MODELS.register_module("ODConv2d", module=ODConv2d, force=True)
