"""What a network's tensors say of the settings that it was made with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["describe"]

_RESNETS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


def describe(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Settings of a ResNet or MobileNetV2, under this project's names.

    ``network``, ``depth`` or ``widen_factor``, ``kernel_num`` (``'static'`` where no
    convolution is dynamic) and ``reduction``, as far as the tensors tell them.
    """
    settings: dict[str, object] = {}
    if "layer7.0.linear_conv.conv.weight" in tensors:
        out_channels = tensors["layer7.0.linear_conv.conv.weight"].shape[-4]
        settings |= {"network": "MobileNetV2", "widen_factor": out_channels / 320}
    elif depth := _resnet_depth(tensors):
        settings |= {"network": "ResNet", "depth": depth}
    banks = [tensor for tensor in tensors.values() if tensor.dim() == 5]
    settings["kernel_num"] = banks[0].shape[0] if banks else "static"
    trunks = [
        tensor.shape[:2]
        for key, tensor in tensors.items()
        if key.endswith("attention.fc.weight")
    ]
    if trunks:
        # The widest layer is least likely to sit at the minimum of 16 hidden channels.
        hidden, in_channels = max(trunks, key=lambda shape: shape[1])
        settings["reduction"] = hidden / in_channels
    return settings


def _resnet_depth(tensors: Mapping[str, Tensor]) -> int | None:
    blocks = tuple(
        len({key.split(".")[1] for key in tensors if key.startswith(f"layer{i}.")})
        for i in range(1, 5)
    )
    bottleneck = any(".conv3." in key for key in tensors)
    return _RESNETS.get((bottleneck, blocks))
