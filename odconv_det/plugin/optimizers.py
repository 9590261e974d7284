"""Learning rates and weight decay by kind of parameter, for dynamic layers as well."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from odconv_det.layers import DynamicConv2d

__all__ = ["OptimWrapperConstructor"]


# In the place of MMEngine's own, which configs get without naming it.
@OPTIM_WRAPPER_CONSTRUCTORS.register_module(
    name="DefaultOptimWrapperConstructor", force=True
)
class OptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, to which a dynamic convolution is a convolution.

    So ``paramwise_cfg=dict(dwconv_decay_mult=0)`` holds for depthwise layers that are
    dynamic. Everything else is as in the base class.
    """

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, *args: Any, **kwargs: Any
    ) -> None:
        """Add the parameters of ``module`` and its children to ``params``."""
        if isinstance(module, DynamicConv2d):
            module = _as_conv(module)
        super().add_params(params, module, *args, **kwargs)


def _as_conv(layer: DynamicConv2d) -> nn.Conv2d:
    """The layer's parameters, children and geometry in an ``nn.Conv2d``."""
    conv = nn.Conv2d.__new__(nn.Conv2d)
    vars(conv).update(vars(layer))
    return conv
