"""Bad inputs and what a person is told: the cases behind docs/bad-input.md.

Each case is data: what is wrong, how to provoke it, and the message. Three dots in a
message stand for what differs from run to run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from odconv_det.env import Runtime

__all__ = ["CASES", "Case", "Environment", "Layer", "Tool"]

ROOT = Path(__file__).parents[1]
TRAIN, TEST = "tools/train.py", "tools/test.py"
CONVERT, INFLATE = "tools/convert_official.py", "tools/inflate.py"
COUNT, LAUNCH = "tools/analysis/complexity.py", "tools/launch.py"

ANNOTATIONS = Path("data/coco/annotations")
TRAINING = ANNOTATIONS / "instances_train2017.json"
VALIDATION = ANNOTATIONS / "instances_val2017.json"
FIRST_IMAGE = Path("data/coco/train2017/000000000001.png")


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        name: of the test.
        wrong: what is wrong, for the page.
        message: what is said.
    """

    name: str
    wrong: str
    message: str


@dataclass(frozen=True)
class Tool(Case):
    """A command line in a folder with ``tiny.py`` and its data.

    Attributes:
        command: script and words.
        config: appended to ``tiny.py``.
        spoil: changes the folder.
        leaves_work_dir: whether the run gets as far as its log.
    """

    command: tuple[str, ...] = (TRAIN, "tiny.py")
    config: str = ""
    spoil: Callable[[Path], None] = field(default=lambda folder: None)
    leaves_work_dir: bool = False


@dataclass(frozen=True)
class Layer(Case):
    """Arguments of a layer, in Python."""

    kind: str = "ODConv2d"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment(Case):
    """What is installed, and what importing it shows."""

    installed: Mapping[str, str] = field(default_factory=dict)
    runtime: Runtime = field(default_factory=Runtime)


def options(*words: str) -> tuple[str, ...]:
    """A training of ``tiny.py`` with ``--cfg-options``."""
    return (TRAIN, "tiny.py", "--cfg-options", *words)


def edited(path: Path, edit: Callable[[dict], None]) -> Callable[[Path], None]:
    """Spoils a JSON file."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        edit(content)
        (folder / path).write_text(json.dumps(content))

    return spoil


def each(key: str, **changes: object) -> Callable[[dict], None]:
    """Sets values in every item of a list of a JSON file; ``None`` takes them out."""

    def edit(content: dict) -> None:
        for item in content[key]:
            item.update(changes)
            for name, value in changes.items():
                if value is None:
                    del item[name]

    return edit


def written(path: str | Path, content: bytes = b"") -> Callable[[Path], None]:
    """Writes a file."""

    def spoil(folder: Path) -> None:
        (folder / path).write_bytes(content)

    return spoil


def cut(path: Path | str, share: float = 0.5) -> Callable[[Path], None]:
    """Cuts the end of a file off."""

    def spoil(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: int(len(content) * share)])

    return spoil


def checkpoint(
    progress: bool = False, share: float = 1.0, part: str = "", **changes: object
) -> Callable[[Path], None]:
    """Writes ``other.pth``, of ``tiny.py`` with these changes of its model.

    Args:
        progress: whether it says where its training was.
        share: of the file that is written.
        part: of the model that is saved alone, without its prefix.
        **changes: ``__`` is the dot of a place.
    """

    def spoil(folder: Path) -> None:
        cfg = Config.fromfile(folder / "tiny.py", import_custom_modules=False)
        cfg.merge_from_dict({k.replace("__", "."): v for k, v in changes.items()})
        init_default_scope("mmdet")
        model = MODELS.build(cfg.model)
        model = getattr(model, part) if part else model
        content: dict[str, Any] = {"state_dict": model.state_dict()}
        if progress:
            content |= {"meta": {"epoch": 1, "iter": 2}, "optimizer": {}}
        torch.save(content, folder / "other.pth")
        cut("other.pth", share)(folder)

    return spoil


CONFIGS = [
    Tool("no_config", "config that is not there", "", (TRAIN, "gone.py")),
    Tool(
        "config_syntax",
        "config that is no Python",
        "",
        (TRAIN, "bad.py"),
        spoil=written("bad.py", b"model = dict(\n"),
    ),
    Tool(
        "config_base",
        "`_base_` that is not there",
        "",
        (TRAIN, "bad.py"),
        spoil=written("bad.py", b"_base_ = './gone.py'\n"),
    ),
    Tool(
        "config_part",
        "config without a detector",
        "",
        (TRAIN, "bad.py"),
        spoil=written("bad.py", b"work_dir = 'here'\n"),
    ),
    Tool(
        "unknown_backbone",
        "unknown backbone",
        "",
        options("model.backbone.type=ODResnet"),
    ),
    Tool(
        "unknown_layer",
        "unknown layer",
        "",
        config="""
            model["backbone"] = dict(
                type="DynamicResNet", depth=18, dynamic=dict(type="ODConv")
            )
        """,
    ),
    Tool(
        "foreign_layer",
        "layer of a project that is not imported",
        "",
        config="""
            model["backbone"] = dict(
                type="DynamicResNet", depth=18, dynamic=dict(type="MyOwnThing")
            )
        """,
    ),
    Tool(
        "unknown_argument",
        "argument in another spelling",
        "",
        options("model.backbone.kernelnum=4"),
    ),
    Tool("kernel_num", "`kernel_num=0`", "", options("model.backbone.kernel_num=0")),
    Tool("reduction", "`reduction=2`", "", options("model.backbone.reduction=2")),
    Tool(
        "temperature",
        "temperature of 0",
        "",
        config="""
            model["backbone"] = dict(
                type="DynamicResNet",
                depth=18,
                dynamic=dict(type="DyConv2d", temperature=0.0),
            )
        """,
    ),
    Tool("depth", "depth that no ResNet has", "", options("model.backbone.depth=20")),
    Tool(
        "out_indices",
        "`out_indices` out of range",
        "",
        options("model.backbone.out_indices=(0,1,2,4)"),
    ),
    Tool(
        "frozen_stages",
        "`frozen_stages` out of range",
        "",
        options("model.backbone.frozen_stages=9"),
    ),
    Tool(
        "where_word",
        "word that `where` does not know",
        "",
        config='model["backbone"]["where"] = dict(stage=(3,))',
    ),
    Tool(
        "where_stage",
        "stage that the network does not have",
        "",
        config='model["backbone"]["where"] = dict(stages=(3, 7))',
    ),
    Tool(
        "neck_channels",
        "wrong channels of the neck",
        "",
        options("model.neck.in_channels=[4,8,16,64]"),
    ),
    Tool(
        "head_channels",
        "wrong channels of a head",
        "",
        options("model.bbox_head.in_channels=16"),
    ),
    Tool(
        "num_classes",
        "head of another number of classes",
        "",
        options("model.bbox_head.num_classes=80"),
    ),
    Tool(
        "optimizer",
        "unknown optimizer",
        "",
        options("optim_wrapper.optimizer.type=SDG"),
        leaves_work_dir=True,
    ),
    Tool(
        "learning_rate",
        "learning rate that is no number",
        "",
        options("optim_wrapper.optimizer.lr=fast"),
        leaves_work_dir=True,
    ),
    Tool(
        "scheduler",
        "unknown argument of a schedule",
        "",
        options("param_scheduler.1.milestone=[1]"),
        leaves_work_dir=True,
    ),
    Tool(
        "loop",
        "unknown argument of the training loop",
        "",
        options("train_cfg.max_epoch=3"),
        leaves_work_dir=True,
    ),
    Tool(
        "hook",
        "unknown hook",
        "",
        config='custom_hooks = [dict(type="CalibratHook")]',
        leaves_work_dir=True,
    ),
    Tool(
        "hook_argument",
        "value that a hook refuses",
        "",
        config='custom_hooks = [dict(type="CalibrateHook", images=1)]',
        leaves_work_dir=True,
    ),
    Tool(
        "dataset",
        "unknown data set",
        "",
        options("train_dataloader.dataset.type=CocoDatset"),
    ),
    Tool(
        "transform",
        "unknown step of a pipeline",
        "",
        options("train_dataloader.dataset.pipeline.0.type=LoadImage"),
    ),
    Tool(
        "metric",
        "unknown metric",
        "",
        options("val_evaluator.metric=box"),
        leaves_work_dir=True,
    ),
    Tool("option_word", "`--cfg-options` without a value", "", options("depth")),
    Tool(
        "option_section",
        "`--cfg-options` of a part that is not there",
        "",
        options("modle.backbone.depth=34"),
    ),
    Tool(
        "option_place",
        "`--cfg-options` of a place that is not there",
        "",
        options("model.backbon.depth=34"),
    ),
    Tool(
        "option_index",
        "`--cfg-options` behind the end of a list",
        "",
        options("param_scheduler.7.end=1"),
    ),
    Tool(
        "option_top",
        "`--cfg-options` that no run reads",
        "",
        options("lod_from=other.pth"),
    ),
    Tool("amp", "`--amp` without a GPU", "", (TRAIN, "tiny.py", "--amp")),
    Tool(
        "scale_lr",
        "`--auto-scale-lr` without a base",
        "",
        (TRAIN, "tiny.py", "--auto-scale-lr"),
        config="auto_scale_lr = dict(enable=False)",
    ),
    Tool(
        "work_dir",
        "work dir that is a file",
        "",
        (TRAIN, "tiny.py", "--work-dir=tiny.py"),
    ),
    Tool(
        "count_config",
        "counting a config with a mistake",
        "",
        (COUNT, "tiny.py", "--cfg-options", "model.backbone.kernelnum=4"),
    ),
]

CHECKPOINTS = [
    Tool(
        "no_checkpoint",
        "checkpoint that is not there",
        "",
        (TEST, "tiny.py", "other.pth"),
    ),
    Tool(
        "folder",
        "folder in place of a checkpoint",
        "",
        (TEST, "tiny.py", "data"),
    ),
    Tool(
        "empty",
        "empty checkpoint",
        "",
        (TEST, "tiny.py", "other.pth"),
        spoil=written("other.pth"),
    ),
    Tool(
        "web_page",
        "web page in place of a checkpoint",
        "",
        (TEST, "tiny.py", "other.pth"),
        spoil=written("other.pth", b"<html>"),
    ),
    Tool(
        "truncated",
        "truncated checkpoint",
        "",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(share=0.7),
    ),
    Tool(
        "test_depth",
        "checkpoint of another depth",
        "",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(model__backbone__depth=34),
        leaves_work_dir=True,
    ),
    Tool(
        "test_kernel_num",
        "of another kernel number",
        "",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(model__backbone__kernel_num=4),
        leaves_work_dir=True,
    ),
    Tool(
        "test_width",
        "of another width",
        "",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(
            model__backbone__base_channels=8, model__neck__in_channels=[8, 16, 32, 64]
        ),
        leaves_work_dir=True,
    ),
    Tool(
        "test_classes",
        "of other classes, to test",
        "",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(model__bbox_head__num_classes=3),
        leaves_work_dir=True,
    ),
    Tool(
        "start_depth",
        "of another depth, to start from",
        "",
        options("load_from=other.pth"),
        spoil=checkpoint(model__backbone__depth=34),
        leaves_work_dir=True,
    ),
    Tool(
        "start_static",
        "of the static network, to start from",
        "",
        options("load_from=other.pth"),
        spoil=checkpoint(
            model__backbone=dict(
                _delete_=True, type="DynamicResNet", depth=18, base_channels=4
            )
        ),
        leaves_work_dir=True,
    ),
    Tool(
        "start_imagenet",
        "of a backbone, as a detector",
        "",
        options("load_from=other.pth"),
        spoil=checkpoint(part="backbone"),
        leaves_work_dir=True,
    ),
    Tool(
        "start_neck",
        "of another neck, to start from",
        "",
        options("load_from=other.pth"),
        spoil=checkpoint(model__neck__out_channels=16),
        leaves_work_dir=True,
    ),
    Tool(
        "resume_config",
        "of another config, to resume",
        "",
        (TRAIN, "tiny.py", "--resume=other.pth"),
        spoil=checkpoint(progress=True, model__bbox_head__num_classes=3),
        leaves_work_dir=True,
    ),
    Tool(
        "resume_weights",
        "of weights alone, to resume",
        "",
        (TRAIN, "tiny.py", "--resume=other.pth"),
        spoil=checkpoint(),
        leaves_work_dir=True,
    ),
    Tool(
        "no_imagenet",
        "ImageNet weights that are not there",
        "",
        config='model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="gone.pth")',
    ),
    Tool(
        "address",
        "unknown `odconv://` address",
        "",
        config='model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="odconv://resnet19")',
        leaves_work_dir=True,
    ),
    Tool(
        "imagenet_depth",
        "ImageNet weights of another depth",
        "",
        config='model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="other.pth")',
        spoil=checkpoint(part="backbone", model__backbone__depth=34),
        leaves_work_dir=True,
    ),
    Tool(
        "convert_suffix",
        "converting to another kind of file",
        "",
        (CONVERT, "other.pth", "new.onnx"),
        spoil=checkpoint(),
    ),
    Tool(
        "convert_folder",
        "converting to a folder",
        "",
        (CONVERT, "other.pth", "new.pth"),
        spoil=lambda folder: (checkpoint()(folder), (folder / "new.pth").mkdir()),
    ),
    Tool(
        "convert_depth",
        "converting for a config of another depth",
        "",
        (CONVERT, "other.pth", "new.pth", "--config=tiny.py"),
        spoil=checkpoint(model__backbone__depth=34),
    ),
    Tool(
        "convert_config",
        "converting for a config with a mistake",
        "",
        (CONVERT, "other.pth", "new.pth", "--config=tiny.py"),
        config='model["backbone"]["reduction"] = 2',
        spoil=lambda folder: checkpoint(model__backbone__reduction=1.0)(folder),
    ),
    Tool(
        "inflate_static",
        "inflating for a static backbone",
        "",
        (INFLATE, "other.pth", "tiny.py", "new.pth"),
        config='model["backbone"] = dict(type="DynamicResNet", depth=18, base_channels=4)',
        spoil=checkpoint(part="backbone"),
    ),
    Tool(
        "inflate_config",
        "inflating for a config with a mistake",
        "",
        (INFLATE, "other.pth", "tiny.py", "new.pth"),
        config='model["backbone"]["depth"] = 19',
        spoil=checkpoint(part="backbone", model__backbone__depth=18),
    ),
    Tool(
        "inflate_dynamic",
        "inflating dynamic weights",
        "",
        (INFLATE, "other.pth", "tiny.py", "new.pth"),
        spoil=checkpoint(part="backbone"),
    ),
    Tool(
        "inflate_folder",
        "inflating to a folder",
        "",
        (INFLATE, "other.pth", "tiny.py", "new.pth"),
        spoil=lambda folder: (checkpoint()(folder), (folder / "new.pth").mkdir()),
    ),
]

DATA = [
    Tool(
        "no_data",
        "data set that is not there",
        "",
        options("train_dataloader.dataset.data_root=gone/"),
    ),
    Tool(
        "lost_images",
        "images that are missing",
        "",
        spoil=lambda folder: (folder / FIRST_IMAGE).unlink(),
    ),
    Tool(
        "corrupt",
        "image with a broken content",
        "",
        spoil=written(FIRST_IMAGE, b"nothing of an image"),
        leaves_work_dir=True,
    ),
    Tool(
        "corrupt_worker",
        "the same, in a process that loads data",
        "",
        options("train_dataloader.num_workers=1"),
        spoil=written(FIRST_IMAGE, b"nothing of an image"),
        leaves_work_dir=True,
    ),
    Tool(
        "empty_image",
        "empty image",
        "",
        spoil=written(FIRST_IMAGE),
        leaves_work_dir=True,
    ),
    Tool(
        "json_folder",
        "folder in place of annotations",
        "",
        options("train_dataloader.dataset.ann_file=annotations"),
    ),
    Tool("json_cut", "truncated annotations", "", spoil=cut(TRAINING)),
    Tool(
        "json_other",
        "annotations that are no JSON",
        "",
        spoil=written(TRAINING, b"<html>"),
    ),
    Tool("json_list", "JSON of another format", "", spoil=written(TRAINING, b"[]")),
    Tool(
        "no_categories",
        "annotations without categories",
        "",
        spoil=edited(TRAINING, lambda c: c.pop("categories")),
    ),
    Tool(
        "no_sizes",
        "images without a size",
        "",
        spoil=edited(TRAINING, each("images", width=None)),
    ),
    Tool(
        "no_images",
        "annotations of no image",
        "",
        spoil=edited(TRAINING, lambda c: c["images"].clear()),
    ),
    Tool(
        "no_boxes",
        "empty annotations",
        "",
        spoil=edited(TRAINING, lambda c: c["annotations"].clear()),
    ),
    Tool(
        "no_truth",
        "empty annotations to evaluate with",
        "",
        (TEST, "tiny.py", "other.pth"),
        spoil=lambda folder: (
            checkpoint()(folder),
            edited(VALIDATION, lambda c: c["annotations"].clear())(folder),
        ),
    ),
    Tool(
        "zero_size",
        "boxes of zero size alone",
        "",
        spoil=edited(TRAINING, each("annotations", bbox=[8, 8, 0, 0])),
    ),
    Tool(
        "corners",
        "box that is no box",
        "",
        spoil=edited(TRAINING, each("annotations", bbox=[8, 8])),
    ),
    Tool(
        "no_area",
        "boxes without their area",
        "",
        spoil=edited(TRAINING, each("annotations", area=None)),
    ),
    Tool(
        "category",
        "box of a category that is not listed",
        "",
        spoil=edited(TRAINING, each("annotations", category_id=99)),
    ),
    Tool(
        "class_name",
        "class that the annotations do not have",
        "",
        options("train_dataloader.dataset.metainfo.classes=('person','bicicle')"),
    ),
    Tool(
        "class_order",
        "classes in another order",
        "",
        options("train_dataloader.dataset.metainfo.classes=('bicycle','person')"),
    ),
    Tool(
        "class_text",
        "one class without a comma",
        "",
        config='train_dataloader["dataset"] = dict(dataset, metainfo=dict(classes=("person")))',
    ),
    Tool(
        "class_upper",
        "classes as in MMDetection 2.x",
        "",
        config='train_dataloader["dataset"] = dict(dataset, metainfo=dict(CLASSES=("person", "bicycle")))',
    ),
    Tool(
        "class_val",
        "other classes in validation",
        "",
        options("val_dataloader.dataset.metainfo.classes=('person','bicycle','car')"),
    ),
    Tool(
        "no_outlines",
        "boxes alone, for a detector of masks",
        "",
        config='dataset["pipeline"][1]["with_mask"] = True',
        spoil=edited(TRAINING, each("annotations", segmentation=None)),
    ),
    Tool(
        "other_truth",
        "evaluator with annotations of other images",
        "",
        options("val_evaluator.ann_file=other.json"),
        spoil=lambda folder: (
            (folder / "other.json").write_bytes((folder / VALIDATION).read_bytes()),
            edited(Path("other.json"), each("images", id=77))(folder),
        ),
    ),
]

OUTPUT = [
    Tool(
        "out_suffix",
        "`--out` of another kind",
        "",
        (TEST, "tiny.py", "other.pth", "--out=new.json"),
    ),
    Tool(
        "out_folder",
        "`--out` that is a folder",
        "",
        (TEST, "tiny.py", "other.pth", "--out=new.pkl"),
        spoil=lambda folder: (folder / "new.pkl").mkdir(),
    ),
    Tool(
        "out_below",
        "`--out` below a file",
        "",
        (TEST, "tiny.py", "other.pth", "--out=tiny.py/new.pkl"),
    ),
    Tool(
        "json_out", "`--json` that is a folder", "", (COUNT, "tiny.py", "--json=data")
    ),
    Tool("count_size", "size that is none", "", (COUNT, "tiny.py", "--size=800")),
    Tool(
        "page",
        "page without a place for tables",
        "",
        (COUNT, "--table", "--out=tiny.py"),
    ),
    Tool("gpus", "number of GPUs that is none", "", (LAUNCH, "two", "train.py")),
]

LAYERS = [
    Layer(
        "layer_kernel_num",
        "`kernel_num` that is no whole number",
        "",
        arguments=dict(kernel_num=1.5),
    ),
    Layer("layer_reduction", "`reduction=0`", "", arguments=dict(reduction=0)),
    Layer(
        "layer_groups",
        "groups that do not divide the channels",
        "",
        arguments=dict(groups=3),
    ),
    Layer(
        "layer_padding",
        "padding that is not zeros",
        "",
        arguments=dict(padding_mode="reflect"),
    ),
    Layer("layer_stride", "stride of 0", "", arguments=dict(stride=0)),
    Layer(
        "layer_temperature",
        "negative temperature",
        "",
        kind="DyConv2d",
        arguments=dict(temperature=-1),
    ),
]

HEALTHY = {
    "torch": "2.13.0",
    "numpy": "2.2.6",
    "setuptools": "80.9.0",
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmdetection": "3.5.1",
    "safetensors": "0.8.0",
}
ENVIRONMENT = [
    Environment(
        "no_operators",
        "mmcv without `mmcv._ext`",
        "",
        HEALTHY,
        Runtime(errors={"mmcv._ext": "No module named 'mmcv._ext'"}),
    ),
    Environment(
        "other_operators",
        "`mmcv._ext` of another torch",
        "",
        HEALTHY,
        Runtime(errors={"mmcv._ext": "_ext.so: undefined symbol: _ZN2at4"}),
    ),
    Environment(
        "both", "both OpenMMLab distributions", "", HEALTHY | {"mmcv": "2.1.0"}
    ),
    Environment("old_torch", "unsupported torch", "", HEALTHY | {"torch": "1.13.1"}),
    Environment("no_torch", "no torch", "", {"numpy": "2.2.6"}),
    Environment(
        "mixed",
        "parts of both stacks",
        "",
        {name: v for name, v in HEALTHY.items() if name != "onedl-mmdetection"}
        | {"mmdet": "3.3.0"},
    ),
]

CASES: Mapping[str, list[Case]] = {
    "Configs": CONFIGS,
    "Checkpoints": CHECKPOINTS,
    "Data": DATA,
    "Output and command lines": OUTPUT,
    "Layers": LAYERS,
    "Environment": ENVIRONMENT,
}
