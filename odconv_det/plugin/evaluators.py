"""What an evaluator computes must be there to compute, and be what is asked of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.registry import METRICS
from torch import nn

from odconv_det.plugin.building import registered, suggestion
from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.sections import listed

__all__ = ["check_masks", "check_save_best"]

_ITEMS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


def check_masks(
    detector: nn.Module,
    evaluator: Mapping[str, Any],
    pipelines: Sequence[Sequence[Mapping[str, Any]]],
    place: str,
) -> None:
    """Raise ToolError for a metric of masks if the detector learns none.

    Some detectors make masks without a part that is called a mask head; those read
    masks in one of the ``pipelines`` of their training.
    """
    if "segm" not in listed(evaluator.get("metric")) or detector.with_mask:
        return
    steps = [step for pipeline in pipelines for step in pipeline]
    if steps and not any(step.get("with_mask") for step in steps):
        raise ToolError(
            f"{place}.metric has segm, but {type(detector).__name__} learns no masks: "
            "write metric='bbox', or take a detector with a mask head"
        )


def check_save_best(cfg: Config) -> None:
    """Raise ToolError if the best checkpoint is that of a number nobody computes."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    names = [name for name in listed(hook.get("save_best")) if name != "auto"]
    known = [_names(evaluator) for evaluator in listed(cfg.get("val_evaluator"))]
    if not known or not all(known):
        return
    given = [name for names in known for name in names]
    for name in names:
        if name not in given:
            raise ToolError(
                f"save_best is {name!r}, which val_evaluator does not give"
                f"{suggestion(name, given)} (it gives {', '.join(given)})"
            )


def _names(evaluator: Mapping[str, Any]) -> list[str]:
    """Of the numbers of an evaluator; none if they are not known."""
    metrics = listed(evaluator.get("metric", "bbox"))
    if (
        registered(evaluator.get("type"), METRICS) is not CocoMetric
        or not {"bbox", "segm"}.issuperset(metrics)
        or evaluator.get("classwise")
        or evaluator.get("metric_items")
    ):
        return []
    prefix = evaluator.get("prefix") or CocoMetric.default_prefix
    return [f"{prefix}/{metric}_{item}" for metric in metrics for item in _ITEMS]
