"""What a whole detector of MMDetection needs, counted part by part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmdet.models.detectors import TwoStageDetector
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from odconv_det.complexity import Complexity, count

__all__ = ["UncountableError", "count_detector"]


class UncountableError(Exception):
    """This detector has something that is not counted here."""


def count_detector(
    detector: nn.Module, size: tuple[int, int], boxes: int = 1000, masks: int = 100
) -> Complexity:
    """Count a detector on one image.

    Args:
        detector: one of MMDetection's; two-stage ones run their RoI heads on stated
            numbers of regions, each stage of a cascade on all of them.
        size: height and width of the image in pixels, as the network gets it.
        boxes: regions that the box heads classify.
        masks: regions that the mask heads segment.

    Raises:
        UncountableError: if it does not run on the meta device, where images have no
            pixels, or has parts whose multiply-adds would not be counted.
    """
    kind = type(detector).__name__
    try:
        counted = count(
            detector,
            (1, 3, *size),
            call=lambda replica, images: _run(replica, images, boxes, masks),
        )
    except UncountableError as error:
        raise UncountableError(f"{kind} cannot be counted: {error}") from error
    except Exception as error:  # whatever a model does that this tool does not expect
        reason = f"{type(error).__name__}: {error}".strip(": ")
        raise UncountableError(
            f"{kind} cannot be counted, it does not run on the meta device ({reason})"
        ) from error
    if counted.missing:
        names = ", ".join(counted.missing[:3])
        more = len(counted.missing) - 3
        raise UncountableError(
            f"{kind} cannot be counted, these parts would be left out: {names}"
            + (f" and {more} more" if more > 0 else "")
        )
    return counted


def _run(detector: nn.Module, images: Tensor, boxes: int, masks: int) -> None:
    if not isinstance(detector, TwoStageDetector):
        size = tuple(images.shape[2:])
        meta = dict(
            img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size
        )
        detector._forward(images, [DetDataSample(metainfo=meta)])
        return
    maps = detector.extract_feat(images)
    if detector.with_rpn:
        detector.rpn_head(maps)
    if detector.with_roi_head:
        _run_regions(detector.roi_head, images, boxes, masks)


def _run_regions(roi_head: Any, images: Tensor, boxes: int, masks: int) -> None:
    """Box heads on ``boxes`` regions, mask heads on ``masks``."""
    shared = roi_head.shared_head if roi_head.with_shared_head else None
    if roi_head.with_bbox:
        extractors = _stages(roi_head.bbox_roi_extractor)
        heads = _stages(roi_head.bbox_head)
        for extractor, head in zip(extractors, heads, strict=True):
            regions = _regions(extractor, images, boxes)
            head(regions if shared is None else shared(regions))
    if roi_head.with_mask:
        extractors = _stages(roi_head.mask_roi_extractor)
        heads = _stages(roi_head.mask_head)
        for extractor, head in zip(extractors, heads, strict=True):
            regions = _regions(extractor, images, masks)
            head(regions if shared is None else shared(regions))


def _stages(module: nn.Module) -> Iterable[nn.Module]:
    """Those of a cascade, else the module alone."""
    return module if isinstance(module, nn.ModuleList) else [module]


def _regions(extractor: Any, images: Tensor, number: int) -> Tensor:
    """Maps as the extractor gives them for so many regions."""
    if any(True for _ in extractor.parameters()):
        raise UncountableError(f"{type(extractor).__name__} has layers of its own")
    size = extractor.roi_layers[0].output_size
    pair = size if isinstance(size, tuple) else (size, size)
    return images.new_empty((number, extractor.out_channels, *pair))
