"""Dynamic convolution for PyTorch and MMDetection.

The layers need torch only. Where MMDetection 3.x is installed, importing this package
also registers the layers and backbones with it.
"""

import importlib.util
import warnings

from odconv_det.layers import ODConv2d, set_temperature
from odconv_det.surgery import swap

__all__ = ["ODConv2d", "__version__", "set_temperature", "swap"]
__version__ = "0.1.0"

if all(importlib.util.find_spec(name) for name in ("mmengine", "mmcv", "mmdet")):
    try:
        import odconv_det.plugin  # noqa: F401  (registers)
    except (ImportError, AssertionError) as error:  # mmdet asserts its mmcv version
        warnings.warn(
            f"MMDetection is installed but cannot be imported ({error}): only the "
            "layers are available. `python -m odconv_det.env` names the fix.",
            stacklevel=2,
        )
