"""Dynamic convolution for PyTorch and MMDetection.

The layers need torch only. Where MMDetection 3.x is installed, importing this package
also registers the layers and backbones with it.
"""

import importlib.util
import sys
import warnings

__all__ = [
    "ODConv2d",
    "__version__",
    "attend",
    "calibrate",
    "fold_batch_norms",
    "fuse",
    "inflate",
    "set_temperature",
    "swap",
    "unfold_batch_norms",
    "use_triton",
]
__version__ = "0.1.0"

# `python -m odconv_det.env` imports this file first, and has to speak where torch or
# mmcv are missing or crash on import: nothing is imported for it.
_DIAGNOSING = sys.argv[:1] == ["-m"] and "odconv_det.env" in sys.orig_argv

if not _DIAGNOSING:
    from odconv_det.calibration import calibrate
    from odconv_det.checkpoints import inflate
    from odconv_det.core.accelerate import use_triton
    from odconv_det.folding import fold_batch_norms, unfold_batch_norms
    from odconv_det.fusion import fuse
    from odconv_det.layers import ODConv2d, set_temperature
    from odconv_det.surgery import attend, swap

    if all(importlib.util.find_spec(name) for name in ("mmengine", "mmcv", "mmdet")):
        try:
            import odconv_det.plugin  # noqa: F401  (registers)
        # A missing operator, mmdet's assertion on versions, another NumPy's binaries:
        # a broken MMDetection fails in many ways, and the layers need none of it.
        except Exception as error:
            warnings.warn(
                f"MMDetection is installed but cannot be imported ({error}): only the "
                "layers are available. `python -m odconv_det.env` names the fix.",
                stacklevel=2,
            )
