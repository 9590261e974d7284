"""Names of tensors in others' files, and the names they have here.

Here a ResNet's names are those of torchvision, timm and the authors' release, and a
MobileNetV2's are those of MMDetection's MobileNetV2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import accumulate

from torch import Tensor

from odconv_det.checkpoints.errors import CheckpointError, shown

__all__ = ["backbone_tensors", "check_names", "from_release", "under"]

# Blocks of MobileNetV2's layer1 .. layer7 (Sandler et al., table 2).
_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
_LAST = 1 + sum(_BLOCKS)  # features.18, the convolution to 1280 channels

# Inside a block; the first block of the network has no expansion.
_EXPANDED = {
    "0.0": "expand_conv.conv",
    "0.1": "expand_conv.bn",
    "1.0": "depthwise_conv.conv",
    "1.1": "depthwise_conv.bn",
    "2": "linear_conv.conv",
    "3": "linear_conv.bn",
}
_FIRST = {
    "0.0": "depthwise_conv.conv",
    "0.1": "depthwise_conv.bn",
    "1": "linear_conv.conv",
    "2": "linear_conv.bn",
}
# The same blocks as one flat sequence, in which the activations count as well.
_FLAT_EXPANDED = dict(
    zip(("0", "1", "3", "4", "6", "7"), _EXPANDED.values(), strict=True)
)
_FLAT_FIRST = dict(zip(("0", "1", "3", "4"), _FIRST.values(), strict=True))
_FLAT_ONLY = re.compile(r"features\.\d+\.conv\.6\.")
_BLOCK_KEY = re.compile(r"features\.(\d+)\.conv\.(\d\.[01]|\d)\.(.+)")
_ENDS_KEY = re.compile(r"features\.(\d+)\.([01])\.(.+)")


def from_release(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file under this project's names: the authors', torchvision's or timm's.

    Strips ``module.``, drops the ImageNet classifier and renames MobileNetV2's
    ``features.N``, of torchvision's layout (which is the authors' too) or with each
    block as a flat sequence. A detector keeps the ``backbone.`` before its backbone's
    names. Other files pass as they are.
    """
    flat = any(_FLAT_ONLY.search(key) for key in tensors)
    renamed = {}
    for key, tensor in tensors.items():
        key = key.removeprefix("module.")
        prefix = "backbone." if key.startswith("backbone.") else ""
        name = key.removeprefix(prefix)
        if not name.startswith(("fc.", "classifier.")):
            renamed[prefix + _rename(name, flat)] = tensor
    return renamed


def backbone_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's part of a detector; all of a file that is no detector."""
    return under(tensors, "backbone.") or dict(tensors)


def check_names(names: Iterable[str], origin: object) -> None:
    """Raise CheckpointError if a name is there twice, with and without ``module.``.

    Readers strip the prefix, and of the two tensors one would be lost.
    """
    names = set(names)
    for name in names:
        if f"module.{name}" in names:
            raise CheckpointError(
                f"{origin} holds both {shown(name)} and module.{shown(name)}: save one "
                "set of weights alone"
            )


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def _rename(name: str, flat: bool) -> str:
    if match := _BLOCK_KEY.fullmatch(name):
        feature, place, rest = int(match[1]), match[2], match[3]
        if flat:
            places = _FLAT_FIRST if feature == 1 else _FLAT_EXPANDED
        else:
            places = _FIRST if feature == 1 else _EXPANDED
        if 1 <= feature < _LAST and place in places:
            return f"{_block(feature)}.{places[place]}.{rest}"
    elif match := _ENDS_KEY.fullmatch(name):
        end = {0: "conv1", _LAST: "conv2"}.get(int(match[1]))
        if end:
            return f"{end}.{('conv', 'bn')[int(match[2])]}.{match[3]}"
    return name


def _block(feature: int) -> str:
    """``features.N`` as ``layerL.i``."""
    before = (0, *accumulate(_BLOCKS))
    layer = max(i for i, first in enumerate(before) if feature > first)
    return f"layer{layer + 1}.{feature - before[layer] - 1}"
