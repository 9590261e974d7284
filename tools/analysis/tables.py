"""The rows of the paper's tables: its figures, what builds each, and what is odd."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from analysis import figures, settings

__all__ = ["COCO", "IMAGENET", "NOTES", "CocoRow", "ImageNetRow"]

NOTES = {
    "2.00": "A slip: 1,968,680 parameters are 1.97M, which is also what the authors' "
    "README prints.",
    "11.52": "The authors' README prints 11.51. With a dynamic first convolution it "
    "would be 11.52, but their code leaves that static.",
    "CGC": "The parameters printed are those of the static network. With the setting "
    "that gives ResNet-50's figure, ResNet-18 has 11.72M.",
    "WeightNet": "No definition was found that gives the parameters of both networks; "
    "this is the closest.",
    "WE": "Quoted from the paper of WE with one decimal, as are the MAdds; parameters "
    "do not quite follow from its definition. The kernels do not depend on the input: "
    "at inference `fuse()` makes them static, and nothing is added to the static "
    "network's figures.",
    "experts": "The MAdds printed are those of experts in the last block, the last "
    "convolution and, on ImageNet, the classifier; the parameters printed are those of "
    "experts in the last six blocks and, on ImageNet, the classifier.",
    "DCD": "Less than what the layer costs: it fuses channels at each pixel. No rule "
    "was found that gives the MAdds printed.",
    "1.953": "The number of kernels is not printed, and 4 fits the parameters; the "
    "MAdds printed do not follow.",
    "near": "The paper rule is near the MAdds printed, but not equal.",
    "76.50": "The backbone's MAdds are not explained: its convolutions take 83.41G, or "
    "78.69G with the stride in the first 1x1. The total of the static row "
    "follows MMDetection's `get_flops` at 800x1280, which also counts biases, norms "
    "and activations; the other totals are that plus the backbone's increment.",
    "24.45": "The backbone's MAdds are those at 1600x2560, four times the convolutions "
    "at 800x1280 in the static row. The total of the static row follows "
    "MMDetection's `get_flops` at 800x1280, which also counts biases, norms and "
    "activations; the other totals are that plus the backbone's increment.",
    "sums": "The paper added rounded figures.",
    "fc": "The brackets also hold by how much DCD's classifier is larger than a static "
    "one.",
}

_IMAGENET_NOTES = {
    ("MobileNetV2 0.5x", "static"): "2.00",
    ("MobileNetV2 1.0x", "ODConv 4x"): "11.52",
    ("ResNet-18", "CGC"): "CGC",
    ("ResNet-50", "CGC"): "near",
    ("ResNet-18", "WeightNet"): "WeightNet",
    ("ResNet-50", "WeightNet"): "WeightNet",
    ("ResNet-18", "WE"): "WE",
    ("ResNet-50", "WE"): "WE",
    ("ResNet-18", "DCD"): "DCD",
    ("ResNet-50", "DCD"): "DCD",
    ("ResNet-18", "spatial + channel + filter + kernel"): "1.953",
    ("ResNet-50", "ECA"): "near",
    ("ResNet-101", "ECA"): "near",
    **{
        (f"MobileNetV2 {width}x", system): note
        for width in ("1.0", "0.75", "0.5")
        for system, note in (
            ("CondConv 8x", "experts"),
            ("DCD", "DCD"),
            ("ODConv 1x", "near"),
        )
    },
    ("MobileNetV2 1.0x", "DyConv 4x"): "near",
}


class ImageNetRow(NamedTuple):
    """One row of the ImageNet tables or of the ablations.

    Attributes:
        table: the heading of its table.
        network: the static network.
        system: what makes it dynamic.
        params: in millions, as printed.
        madds: in billions, in millions for MobileNetV2, as printed.
        top1: the authors' accuracy in percent, and ``top5``.
        backbone: the config of the backbone.
        classifier: the config of the classifier.
        note: key of ``NOTES``, or ``None``.
    """

    table: str
    network: str
    system: str
    params: str
    madds: str
    top1: str
    top5: str
    backbone: dict[str, Any]
    classifier: Mapping[str, Any]
    note: str | None

    @property
    def unit(self) -> int:
        """What ``madds`` counts in."""
        return 10**6 if self.network.startswith("MobileNetV2") else 10**9


class CocoRow(NamedTuple):
    """One row of the COCO table.

    Attributes:
        detector: ``"Faster R-CNN"`` or ``"Mask R-CNN"``.
        network: the static network.
        system: what makes it dynamic.
        reported: the authors' AP, AP50, AP75, APs, APm and APl in percent.
        params: in millions, as printed: all, and the backbone's in brackets.
        madds: in billions, as printed: all, and the backbone's in brackets.
        config: relative to the repository.
        classifier: the config of the ImageNet classifier that the authors' backbone
            still holds, and their figures count.
        params_notes: keys of ``NOTES`` about ``params``.
        madds_notes: keys of ``NOTES`` about ``madds``.
    """

    detector: str
    network: str
    system: str
    reported: tuple[str, ...]
    params: tuple[str, str]
    madds: tuple[str, str]
    config: str
    classifier: Mapping[str, Any]
    params_notes: tuple[str, ...]
    madds_notes: tuple[str, ...]


def _imagenet_row(row: figures.Figures) -> ImageNetRow:
    return ImageNetRow(
        row.table,
        row.network,
        row.system,
        *row.numbers,
        settings.backbone(row.network, row.system),
        settings.classifier(row.system),
        _IMAGENET_NOTES.get((row.network, row.system)),
    )


def _coco_row(row: figures.Figures) -> CocoRow:
    *reported, params, own_params, madds, own_madds = row.numbers
    is_dcd = row.system == "DCD"
    return CocoRow(
        row.table,
        row.network,
        row.system,
        tuple(reported),
        (params, own_params),
        (madds, own_madds),
        _config(row),
        # That of CondConv is static here.
        settings.classifier("DCD" if is_dcd else "static"),
        ("fc",) if is_dcd else (),
        _coco_madds_notes(row.network, row.system),
    )


def _coco_madds_notes(network: str, system: str) -> tuple[str, ...]:
    if network == "ResNet-50":
        return ("76.50",)
    own = {"CondConv 8x": ("experts",), "ODConv 1x": ("near",)}.get(system, ())
    return ("24.45", *own)


def _config(row: figures.Figures) -> str:
    detector = row.table.lower().replace("r-cnn", "rcnn").replace(" ", "-")
    backbone = "r50" if row.network == "ResNet-50" else "mobilenetv2"
    folder = row.system.split()[0].lower()
    if row.system == "static":
        return f"configs/baseline/{detector}_{backbone}_fpn_1x_coco.py"
    system = row.system.lower().replace(" ", "")
    return f"configs/{folder}/{detector}_{backbone}-{system}_fpn_1x_coco.py"


IMAGENET = tuple(map(_imagenet_row, figures.IMAGENET))
COCO = tuple(map(_coco_row, figures.COCO))
