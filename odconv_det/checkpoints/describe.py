"""What a network's tensors say of the settings that it was made with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["describe", "reductions"]

_RESNETS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


def describe(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Settings of a ResNet or MobileNetV2, under this project's names.

    ``network``, ``depth`` or ``widen_factor``, and ``kernel_num`` (``'static'`` where
    no convolution is dynamic), as far as the tensors tell them.
    """
    settings: dict[str, object] = {}
    if "layer7.0.linear_conv.conv.weight" in tensors:
        out_channels = tensors["layer7.0.linear_conv.conv.weight"].shape[-4]
        settings |= {"network": "MobileNetV2", "widen_factor": out_channels / 320}
    elif depth := _resnet_depth(tensors):
        settings |= {"network": "ResNet", "depth": depth}
    banks = [tensor for tensor in tensors.values() if tensor.dim() == 5]
    settings["kernel_num"] = banks[0].shape[0] if banks else "static"
    return settings


def reductions(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> tuple[float, float] | None:
    """The ``reduction`` of two networks, if their attentions differ in it alone.

    Read off the widest layer that has the same input in both and another hidden width:
    it is the least likely to sit at the minimum of 16 hidden channels.
    """
    pairs = [
        (tensor.shape, other[key].shape)
        for key, tensor in one.items()
        if key.endswith("attention.fc.weight") and key in other
    ]
    differing = [(a, b) for a, b in pairs if a[1] == b[1] and a[0] != b[0]]
    if not differing:
        return None
    a, b = max(differing, key=lambda pair: pair[0][1])
    return a[0] / a[1], b[0] / b[1]


def _resnet_depth(tensors: Mapping[str, Tensor]) -> int | None:
    blocks = tuple(
        len({key.split(".")[1] for key in tensors if key.startswith(f"layer{i}.")})
        for i in range(1, 5)
    )
    bottleneck = any(".conv3." in key for key in tensors)
    return _RESNETS.get((bottleneck, blocks))
