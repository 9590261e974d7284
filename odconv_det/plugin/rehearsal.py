"""Build what a config asks for once, before a run leaves a trace.

The detector is built without memory for its weights, the data sets without their
annotations, and what they say of themselves is compared: with each other, and with the
annotation files.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from mmcv.transforms import LoadAnnotations
from mmdet.datasets import BaseVideoDataset, CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.models.necks import FPN, PAFPN
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    init_default_scope,
)
from torch import nn

from odconv_det.plugin.annotations import CocoFile, check_classes
from odconv_det.plugin.building import (
    build_on_meta,
    check_kind,
    config_errors,
    registered,
)
from odconv_det.plugin.errors import ToolError, local_rank
from odconv_det.plugin.evaluators import check_masks, check_save_best
from odconv_det.plugin.images import check_decoder
from odconv_det.plugin.loaders import check_batches, check_words
from odconv_det.plugin.sections import listed
from odconv_det.plugin.sizes import check_read_sizes, warn_of_other_scales

__all__ = ["leaves", "rehearse"]


def rehearse(cfg: Config, *modes: str) -> None:
    """Raise ToolError for what is wrong with the detector and the data of a config.

    Args:
        cfg: of a run.
        modes: of ``"train"``, ``"val"`` and ``"test"``, what the run does.
    """
    _check_kinds(cfg)
    if "train" in modes:
        check_save_best(cfg)
    try:
        detector = build_on_meta(cfg)
    except ToolError as error:
        # MMCV's SyncBN asks for the process group, which a launcher's run gets later.
        if cfg.get("launcher", "none") == "none" or "process group" not in str(error):
            raise
        return
    _check_channels(detector)
    files: dict[str, CocoFile] = {}
    trained = _trained(cfg)
    for mode in modes:
        loader = cfg.get(f"{mode}_dataloader")
        if not loader:
            continue
        check_words(loader, f"{mode}_dataloader")
        evaluators = [] if mode == "train" else listed(cfg.get(f"{mode}_evaluator"))
        for evaluator in evaluators:
            check_masks(detector, evaluator, trained, f"{mode}_evaluator")
        place = f"{mode}_dataloader.dataset"
        for part in leaves(loader.get("dataset")):
            with config_errors(cfg):
                dataset = _build_dataset(part)
            if dataset is None or "classes" not in dataset.metainfo:
                continue
            classes = check_classes(dataset.metainfo)
            if _counts_classes(detector, dataset):
                _check_heads(detector, classes, place)
            # One process of each machine is enough to read the files.
            if local_rank() == 0 and _reads_coco(dataset):
                images = _check_files(dataset, classes, evaluators, files)
                if part is loader.get("dataset"):
                    check_batches(loader, images, f"{mode}_dataloader")
                if mode != "train":
                    file, tested = files[dataset.ann_file], part.get("pipeline") or []
                    warn_of_other_scales(trained, tested, file.images, place)


def _check_kinds(cfg: Config) -> None:
    """Those of parts that only the run itself can build, and late."""
    scope = cfg.get("default_scope") or "mmdet"
    if scope not in DATASETS.children and find_spec(scope) is None:
        raise ToolError(f"there is no default_scope {scope!r}: write 'mmdet'")
    init_default_scope(scope)
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer") or {}
    check_kind(optimizer, OPTIMIZERS, "optim_wrapper.optimizer")
    for place, registry in (
        ("param_scheduler", PARAM_SCHEDULERS),
        ("custom_hooks", HOOKS),
    ):
        for number, part in enumerate(listed(cfg.get(place))):
            check_kind(part, registry, f"{place}.{number}")
    for name, part in (cfg.get("default_hooks") or {}).items():
        check_kind(part or {}, HOOKS, f"default_hooks.{name}")


def _check_channels(detector: nn.Module) -> None:
    """The channels of backbone, neck and heads follow from each other."""
    neck = getattr(detector, "neck", None)
    if type(neck) not in (FPN, PAFPN):  # subclasses may read other maps
        return
    maps = _channels(detector.backbone)
    if maps is not None and maps != list(neck.in_channels):
        raise ToolError(
            f"model.neck.in_channels is {list(neck.in_channels)}, but the backbone's "
            f"maps have {maps} channels: write neck=dict(in_channels={maps})"
        )
    for name in ("rpn_head", "bbox_head"):
        width = getattr(getattr(detector, name, None), "in_channels", neck.out_channels)
        if width != neck.out_channels:
            raise ToolError(
                f"model.{name}.in_channels is {width}, but the neck's maps have "
                f"{neck.out_channels} channels: write {name}=dict(in_channels="
                f"{neck.out_channels})"
            )
        anchors = getattr(getattr(detector, name, None), "prior_generator", None)
        levels = getattr(anchors, "num_levels", neck.num_outs)
        if levels != neck.num_outs:
            raise ToolError(
                f"model.{name} has strides of {levels} maps, but the neck gives "
                f"{neck.num_outs}: write neck=dict(num_outs={levels}), or as many "
                "strides"
            )


@torch.no_grad()
def _channels(backbone: nn.Module) -> list[int] | None:
    """Of its maps; ``None`` if it cannot be run here."""
    parameter = next(backbone.parameters())
    training = backbone.training
    try:
        backbone.eval()
        maps = backbone(parameter.new_empty((1, 3, 64, 64)))
        return [one.shape[1] for one in maps]
    except Exception:  # operators of which only some devices know the shapes
        return None
    finally:
        backbone.train(training)


def _check_heads(detector: nn.Module, classes: Sequence[str], place: str) -> None:
    for name, module in detector.named_modules():
        kind, count = type(module).__name__, getattr(module, "num_classes", None)
        # The first stage tells objects from background, and semantic heads see stuff.
        first = "rpn_head" in name or "RPN" in kind
        counts = "head" in name and not first and "Semantic" not in kind
        if counts and isinstance(count, int) and count != len(classes):
            raise ToolError(
                f"model.{name}.num_classes is {count}, but {place} has {len(classes)} "
                f"classes: write num_classes={len(classes)} there, or name other "
                "classes in metainfo"
            )


def _counts_classes(detector: nn.Module, dataset: BaseDataset) -> bool:
    """Whether the heads of a detector are made for the classes of a data set.

    Panoptic data have two kinds of classes, words may name any number, and trackers
    count what they re-identify.
    """
    return not (
        "stuff_classes" in dataset.metainfo
        or getattr(detector, "language_model", None) is not None
        or isinstance(dataset, BaseVideoDataset)
    )


def leaves(part: object) -> Iterator[Mapping[str, Any]]:
    """The data sets inside wrappers, which may nest."""
    return (one for one in _datasets(part) if not _inner(one))


def _datasets(part: object) -> Iterator[Mapping[str, Any]]:
    """Data sets and the wrappers around them."""
    if isinstance(part, list | tuple):
        for one in part:
            yield from _datasets(one)
    elif isinstance(part, Mapping):
        yield part
        yield from _datasets(_inner(part))


def _inner(part: Mapping[str, Any]) -> object:
    return part.get("datasets") or part.get("dataset")


def _trained(cfg: Config) -> list[list[Mapping[str, Any]]]:
    """The pipelines of the training; what the model does to its batches is a step too.

    A wrapper that mixes images has a pipeline of its own.
    """
    training = (cfg.get("train_dataloader") or {}).get("dataset")
    batches = cfg.model.get("data_preprocessor") or {}
    return [
        [*part["pipeline"], *(batches.get("batch_augments") or [])]
        for part in _datasets(training)
        if part.get("pipeline")
    ]


def _build_dataset(part: Mapping[str, Any]) -> BaseDataset | None:
    """Without its annotations; ``None`` for a kind that cannot do that."""
    cls = registered(part.get("type"), DATASETS)
    if cls is None:
        return DATASETS.build(dict(part))  # which says what there is
    if not (isinstance(cls, type) and issubclass(cls, BaseDataset)):
        return None
    words = inspect.signature(cls).parameters
    passes_on = any(word.kind is word.VAR_KEYWORD for word in words.values())
    if not passes_on and "lazy_init" not in words:
        return None
    return DATASETS.build({**part, "lazy_init": True})


def _reads_coco(dataset: BaseDataset) -> bool:
    """Whether it reads local files as MMDetection's CocoDataset does."""
    storage = getattr(dataset, "backend_args", None) or {}
    return (
        isinstance(dataset, CocoDataset)
        and type(dataset).load_data_list is CocoDataset.load_data_list
        and type(dataset).parse_data_info is CocoDataset.parse_data_info
        and storage.get("backend", "local") == "local"
        and "://" not in dataset.ann_file
    )


def _check_files(
    dataset: CocoDataset,
    classes: Sequence[str],
    evaluators: Sequence[Mapping[str, Any]],
    files: dict[str, CocoFile],
) -> int:
    """Compare a data set with its annotation file, images and evaluators.

    ``files`` has those that were read already. Returns the number of images.
    """
    own = _read(dataset.ann_file, files)
    own.check_categories(classes)
    steps = getattr(dataset.pipeline, "transforms", [])
    for step in steps:
        check_decoder(step)
    masks = any(
        isinstance(step, LoadAnnotations) and getattr(step, "with_mask", False)
        for step in steps
    )
    used = own.check_boxes(classes, masks=masks)
    # Said explicitly of images without labels, as semi-supervised configs do.
    keeps_empty = not (dataset.filter_cfg or {}).get("filter_empty_gt", True)
    if not used and not dataset.test_mode and not keeps_empty:
        raise ToolError(
            f"{own.path} has no boxes to learn from: give a file with annotations"
        )
    images = _check_images(dataset, own, classes)
    for evaluator in evaluators:
        kind = registered(evaluator.get("type"), METRICS)
        if kind is not CocoMetric or not evaluator.get("ann_file"):
            continue
        if evaluator.get("format_only"):
            continue
        truth = _read(evaluator["ann_file"], files)
        truth.check_covers(own)
        truth.check_categories(classes)
        outlines = "segm" in listed(evaluator.get("metric", "bbox"))
        if not truth.check_boxes(classes, masks=outlines, truth=True):
            raise ToolError(
                f"{truth.path} has no boxes: there is nothing to compare with (to "
                "predict without an answer, give the evaluator format_only=True)"
            )
    return images


def _check_images(dataset: CocoDataset, file: CocoFile, classes: Sequence[str]) -> int:
    """Those that the run will open, and how many they are."""
    rules = {} if dataset.test_mode else dataset.filter_cfg or {}
    images = file.kept_images(classes, rules)
    if not images:
        raise ToolError(
            f"filter_cfg leaves none of the {len(file.images)} images of {file.path}: "
            "see its min_size"
        )
    folder = (dataset.data_prefix or {}).get("img", "")
    some = dataset._indices
    if "://" not in folder and some is None:
        file.check_images(folder, images)
        for step in getattr(dataset.pipeline, "transforms", []):
            check_read_sizes(file.path, folder, images, step)
    if some is None:
        return len(images)
    return abs(some) if isinstance(some, int) else len(some)


def _read(path: str, files: dict[str, CocoFile]) -> CocoFile:
    if path not in files:
        files[path] = CocoFile(path)
    return files[path]
