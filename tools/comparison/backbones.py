"""What is compared: each backbone as what it changes in the static one's config.

The settings are those whose parameters equal the tables of the ODConv paper.
"""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["BACKBONES", "STATIC", "Backbone"]


@dataclass(frozen=True)
class Backbone:
    """A row of the table.

    Attributes:
        title: Its name there.
        settings: Arguments of ``DynamicMobileNetV2``.
    """

    title: str
    settings: dict[str, Any] = field(default_factory=dict)


STATIC = "static"

BACKBONES = {
    STATIC: Backbone("static"),
    "dyconv4x": Backbone(
        "DyConv 4x", dict(dynamic=dict(type="DyConv2d", kernel_num=4))
    ),
    # The expansions and projections of all blocks that have both.
    "dcd": Backbone(
        "DCD",
        dict(
            dynamic=dict(type="DCDConv2d", kind="inverted_residual", squeeze=16),
            where=dict(stages=(2, 3, 4, 5, 6, 7), kernel_sizes=(1,)),
        ),
    ),
    "condconv8x": Backbone(
        "CondConv 8x",
        dict(dynamic=dict(type="CondConv2d", kernel_num=8), where=dict(last_blocks=6)),
    ),
    "odconv1x": Backbone(
        "ODConv 1x",
        dict(dynamic=dict(type="ODConv2d", kernel_num=1, reduction=1 / 16)),
    ),
    "odconv4x": Backbone(
        "ODConv 4x",
        dict(dynamic=dict(type="ODConv2d", kernel_num=4, reduction=1 / 16)),
    ),
}
