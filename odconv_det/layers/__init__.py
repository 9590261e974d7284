"""Dynamic convolution layers, one paper a file. Needs torch only."""

from odconv_det.layers.attended import AttendedNorm
from odconv_det.layers.base import DynamicConv2d
from odconv_det.layers.cbam import CBAM
from odconv_det.layers.cgc import CGConv2d
from odconv_det.layers.condconv import CondConv2d
from odconv_det.layers.dcd import DCDConv2d
from odconv_det.layers.dyconv import DyConv2d
from odconv_det.layers.eca import ECA
from odconv_det.layers.odconv import ODAttention, ODConv2d
from odconv_det.layers.se import SE
from odconv_det.layers.temperature import set_temperature
from odconv_det.layers.weight_excitation import WEConv2d
from odconv_det.layers.weightnet import WeightNetConv2d

__all__ = [
    "CBAM",
    "DYNAMIC_CONVOLUTIONS",
    "ECA",
    "FEATURE_ATTENTIONS",
    "SE",
    "AttendedNorm",
    "CGConv2d",
    "CondConv2d",
    "DCDConv2d",
    "DyConv2d",
    "DynamicConv2d",
    "ODAttention",
    "ODConv2d",
    "WEConv2d",
    "WeightNetConv2d",
    "set_temperature",
]

# What configs can name, by class name.
DYNAMIC_CONVOLUTIONS = (
    ODConv2d,
    CondConv2d,
    DyConv2d,
    DCDConv2d,
    CGConv2d,
    WeightNetConv2d,
    WEConv2d,
)
FEATURE_ATTENTIONS = (SE, CBAM, ECA)
