"""How each system of the paper's tables is built: arguments of the backbones here.

They are those with which the parameters are the paper's, where there are any.
"""

from collections.abc import Mapping
from typing import Any

from analysis.imagenet import STATIC

__all__ = ["backbone", "classifier"]

Config = dict[str, Any]

_EXPERTS = dict(type="CondConv2d", bias=False, kernel_num=8)
_DECOMPOSED = dict(type="DCDConv2d", kind="classifier")
_STEM_TOO = (0, 1, 2, 3, 4)
_EXPANDING = (2, 3, 4, 5, 6, 7)  # stages of MobileNetV2 whose blocks expand


def backbone(network: str, system: str) -> Config:
    """The config of a row's backbone.

    Args:
        network: ``"ResNet-18"`` .. ``"ResNet-101"``, ``"MobileNetV2 0.75x"``, ...
        system: as in the tables; attentions joined by ``" + "`` are the ablation's.
    """
    if network.startswith("ResNet"):
        depth = int(network.removeprefix("ResNet-"))
        return dict(type="DynamicResNet", depth=depth, **_resnet(depth, system))
    width = float(network.removeprefix("MobileNetV2 ").rstrip("x"))
    settings = _mobilenet(width, system)
    return dict(type="DynamicMobileNetV2", widen_factor=width, **settings)


def classifier(system: str) -> Mapping[str, Any]:
    """The config of the ImageNet classifier, dynamic in two of the systems."""
    return {"CondConv 8x": _EXPERTS, "DCD": _DECOMPOSED}.get(system, STATIC)


def _resnet(depth: int, system: str) -> Config:
    match system.split():
        case ["DyConv", number]:
            return _bank("DyConv2d", number) | dict(where=dict(shortcuts=True))
        case ["CondConv", number]:
            return _bank("CondConv2d", number) | dict(where=dict(last_blocks=3))
        case ["DCD"]:
            kind = "basic" if depth < 50 else "bottleneck"
            return dict(dynamic=dict(type="DCDConv2d", kind=kind))
        case ["CGC"]:
            where = dict(stages=_STEM_TOO, kernel_sizes=(3, 7))
            return dict(dynamic=dict(type="CGConv2d"), where=where)
        case ["WeightNet"]:
            return dict(dynamic=dict(type="WeightNetConv2d"))
        case ["WE"]:
            where = dict(stages=_STEM_TOO, shortcuts=True)
            return dict(dynamic=dict(type="WEConv2d"), where=where)
        case [("SE" | "CBAM" | "ECA") as kind]:
            return dict(feature_attention=dict(type=kind))
        case [("spatial" | "channel" | "filter"), *_]:
            return _ablation(tuple(system.split(" + ")))
        case _:
            return _common(system)


def _mobilenet(width: float, system: str) -> Config:
    match system.split():
        case ["DyConv", number]:
            return _bank("DyConv2d", number)
        case ["CondConv", number]:
            return _bank("CondConv2d", number) | dict(where=dict(last_blocks=6))
        case ["DCD"]:
            squeeze = 8 if width == 0.5 else 16
            layer = dict(type="DCDConv2d", kind="inverted_residual", squeeze=squeeze)
            return dict(dynamic=layer, where=dict(stages=_EXPANDING, kernel_sizes=(1,)))
        case _:
            return _common(system)


def _common(system: str) -> Config:
    match system.split():
        case ["static"]:
            return {}
        case ["ODConv", number]:
            return _bank("ODConv2d", number)
    raise ValueError(f"no such system: {system!r}")


def _bank(layer: str, number: str) -> Config:
    return dict(dynamic=dict(type=layer, kernel_num=int(number.rstrip("x"))))


def _ablation(attentions: tuple[str, ...]) -> Config:
    # The paper does not print how many kernels there are; 4 fits.
    number = 4 if "kernel" in attentions else 1
    layer = dict(
        type="ODConv2d", kernel_num=number, reduction=1 / 4, attentions=attentions
    )
    return dict(dynamic=layer)
