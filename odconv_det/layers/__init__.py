"""Dynamic convolution layers, one paper a file. Needs torch only."""

from odconv_det.layers.odconv import ODAttention, ODConv2d
from odconv_det.layers.temperature import set_temperature

__all__ = ["ODAttention", "ODConv2d", "set_temperature"]
