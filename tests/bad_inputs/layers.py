"""Arguments of the layers in Python."""

from tests.bad_inputs.case import Layer

__all__ = ["LAYERS"]

LAYERS = [
    Layer(
        "layer_kernel_num",
        "`kernel_num` that is no whole number",
        "kernel_num must be an int of at least 1, got 1.5",
        arguments=dict(kernel_num=1.5),
    ),
    Layer(
        "layer_reduction",
        "`reduction=0`",
        "reduction must be in (0, 1], got 0",
        arguments=dict(reduction=0),
    ),
    Layer(
        "layer_groups",
        "groups that do not divide the channels",
        "groups=3 must divide in_channels=8 and out_channels=8",
        arguments=dict(groups=3),
    ),
    Layer(
        "layer_padding",
        "padding that is not zeros",
        "padding_mode must be 'zeros', got 'reflect'",
        arguments=dict(padding_mode="reflect"),
    ),
    Layer(
        "layer_stride",
        "stride of 0",
        "stride must be an int or a pair of ints of at least 1, got 0",
        arguments=dict(stride=0),
    ),
    Layer(
        "layer_temperature",
        "negative temperature",
        "temperature must be above 0 and finite, got -1",
        kind="DyConv2d",
        arguments=dict(temperature=-1),
    ),
]
