"""The glue to MMDetection: the only part that imports mmengine, mmcv and mmdet."""

from mmengine.registry import MODELS

from odconv_det.layers import DYNAMIC_CONVOLUTIONS, FEATURE_ATTENTIONS
from odconv_det.plugin import (
    backbones,
    dynamic,
    hooks,
    loading,
    optimizers,
    pretrained,
)

__all__ = ["backbones", "dynamic", "hooks", "loading", "optimizers", "pretrained"]

# In the root registry, where mmcv's own convolutions are: every `conv_cfg` finds them.
for layer in (*DYNAMIC_CONVOLUTIONS, *FEATURE_ATTENTIONS):
    MODELS.register_module(layer.__name__, module=layer, force=True)
