"""Checkpoints and weights that do not fit, or are none."""

import torch

from tests.bad_inputs.case import CONVERT, INFLATE, TEST, TRAIN, Tool, options
from tests.bad_inputs.spoil import checkpoint, written

__all__ = ["CHECKPOINTS"]

START = 'model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="{}")'

CHECKPOINTS = [
    Tool(
        "no_checkpoint",
        "checkpoint that is not there",
        "no checkpoint other.pth; name the file of an earlier run",
        (TEST, "tiny.py", "other.pth"),
    ),
    Tool(
        "folder",
        "folder in place of a checkpoint",
        "no checkpoint data; name the file of an earlier run",
        (TEST, "tiny.py", "data"),
    ),
    Tool(
        "empty",
        "empty checkpoint",
        "checkpoint other.pth is not a whole torch file: get it again",
        (TEST, "tiny.py", "other.pth"),
        spoil=written("other.pth"),
    ),
    Tool(
        "web_page",
        "web page in place of a checkpoint",
        "checkpoint other.pth is not a whole torch file: get it again",
        (TEST, "tiny.py", "other.pth"),
        spoil=written("other.pth", b"<html>"),
    ),
    Tool(
        "truncated",
        "truncated checkpoint",
        "checkpoint other.pth is not a whole torch file: get it again",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(share=0.7),
    ),
    Tool(
        "test_depth",
        "checkpoint of another depth",
        "other.pth does not fit RetinaNet of the config: the file was made with "
        "depth=34, this network has depth=18; 320 unexpected (...); take the "
        "config that it was made with, or another file",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(model__backbone__depth=34),
        leaves_work_dir=True,
    ),
    Tool(
        "test_kernel_num",
        "checkpoint of another kernel number",
        "other.pth does not fit RetinaNet of the config: the file was made with "
        "kernel_num=4, this network has kernel_num=2; 48 of another shape (...); "
        "take the config that it was made with, or another file",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(model__backbone__kernel_num=4),
        leaves_work_dir=True,
    ),
    Tool(
        "test_width",
        "checkpoint of another width",
        "other.pth does not fit RetinaNet of the config: 182 of another shape "
        "(...); take the config that it was made with, or another file",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(
            model__backbone__base_channels=8, model__neck__in_channels=[8, 16, 32, 64]
        ),
        leaves_work_dir=True,
    ),
    Tool(
        "test_classes",
        "checkpoint of other classes, to test",
        "other.pth does not fit RetinaNet of the config: 2 of another shape (...); "
        "take the config that it was made with, or another file",
        (TEST, "tiny.py", "other.pth"),
        spoil=checkpoint(model__bbox_head__num_classes=3),
        leaves_work_dir=True,
    ),
    Tool(
        "start_depth",
        "checkpoint of another depth, to start from",
        "other.pth does not fit RetinaNet of the config: backbone: the file was "
        "made with depth=34, this network has depth=18; 320 unexpected (...); take "
        "the config that it was made with, or another file",
        options("load_from=other.pth"),
        spoil=checkpoint(model__backbone__depth=34),
        leaves_work_dir=True,
    ),
    Tool(
        "start_static",
        "checkpoint of the static network, to start from",
        "other.pth does not fit RetinaNet of the config: backbone: the file was "
        "made with kernel_num=static, this network has kernel_num=2; 208 missing "
        "(...); 16 of another shape (...); take the config that it was made with, "
        "or another file",
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
        "checkpoint of a backbone, as a detector",
        "other.pth does not fit RetinaNet of the config: it holds no backbone "
        "(ImageNet weights belong into model.backbone.init_cfg, not into "
        "load_from); take the config that it was made with, or another file",
        options("load_from=other.pth"),
        spoil=checkpoint(part="backbone"),
        leaves_work_dir=True,
    ),
    Tool(
        "start_neck",
        "checkpoint of another neck, to start from",
        "other.pth does not fit RetinaNet of the config: 8 of another shape (...); "
        "take the config that it was made with, or another file",
        options("load_from=other.pth"),
        spoil=checkpoint(model__neck__out_channels=16),
        leaves_work_dir=True,
    ),
    Tool(
        "resume_config",
        "checkpoint of another config, to resume",
        "other.pth does not fit RetinaNet of the config: 2 of another shape (...); "
        "take the config that it was made with, or another file",
        (TRAIN, "tiny.py", "--resume=other.pth"),
        spoil=checkpoint(progress=True, model__bbox_head__num_classes=3),
        leaves_work_dir=True,
    ),
    Tool(
        "resume_weights",
        "checkpoint of weights alone, to resume",
        "other.pth holds weights, and not where its training was: start from it "
        "with --cfg-options load_from=FILE instead of --resume",
        (TRAIN, "tiny.py", "--resume=other.pth"),
        spoil=checkpoint(),
        leaves_work_dir=True,
    ),
    Tool(
        "no_imagenet",
        "ImageNet weights that are not there",
        "no ImageNet weights gone.pth; put it there (tools/convert_official.py "
        "writes it from the authors' file), or start from the weights of the static "
        "network with init_cfg=dict(type='Pretrained', checkpoint=FILE, "
        "inflate=True), or from scratch with init_cfg=None",
        config=START.format("gone.pth"),
    ),
    Tool(
        "address",
        "unknown `odconv://` address",
        "unknown weights odconv://resnet19: choose from resnet18, resnet18_1x, ...",
        config=START.format("odconv://resnet19"),
        leaves_work_dir=True,
    ),
    Tool(
        "imagenet_depth",
        "ImageNet weights of another depth",
        "other.pth does not fit ODResNet: the file was made with depth=34, this "
        "network has depth=18; 320 unexpected (...); take the weights of this "
        "network, or the config of these",
        config=START.format("other.pth"),
        spoil=checkpoint(part="backbone", model__backbone__depth=34),
        leaves_work_dir=True,
    ),
    Tool(
        "convert_suffix",
        "converting to another kind of file",
        "write .safetensors or .pth, not 'new.onnx'",
        (CONVERT, "other.pth", "new.onnx"),
        spoil=checkpoint(),
    ),
    Tool(
        "convert_folder",
        "converting to a folder",
        "new.pth is a folder: name a file to write",
        (CONVERT, "other.pth", "new.pth"),
        spoil=lambda folder: (checkpoint()(folder), (folder / "new.pth").mkdir()),
    ),
    Tool(
        "convert_depth",
        "converting for a config of another depth",
        "other.pth does not cover RetinaNet of tiny.py: the file was made with "
        "depth=34, this network has depth=18; 320 unexpected (...); take the file "
        "or the config that belongs to the other",
        (CONVERT, "other.pth", "new.pth", "--config=tiny.py"),
        spoil=checkpoint(model__backbone__depth=34),
    ),
    Tool(
        "convert_config",
        "converting for a config with a mistake",
        "tiny.py: model.backbone (ODResNet): layer1.0.conv1: reduction must be in "
        "(0, 1], got 2",
        (CONVERT, "other.pth", "new.pth", "--config=tiny.py"),
        config='model["backbone"]["reduction"] = 2',
        spoil=lambda folder: checkpoint(model__backbone__reduction=1.0)(folder),
    ),
    Tool(
        "inflate_static",
        "inflating for a static backbone",
        "the backbone of tiny.py is static, and takes static weights as they are",
        (INFLATE, "other.pth", "tiny.py", "new.pth"),
        config="""
            model["backbone"] = dict(type="DynamicResNet", depth=18, base_channels=4)
        """,
        spoil=checkpoint(part="backbone"),
    ),
    Tool(
        "inflate_config",
        "inflating for a config with a mistake",
        "tiny.py: model.backbone (ODResNet): depth must be one of [18, 34, 50, "
        "101, 152], got 19",
        (INFLATE, "other.pth", "tiny.py", "new.pth"),
        config='model["backbone"]["depth"] = 19',
        spoil=checkpoint(part="backbone", model__backbone__depth=18),
    ),
    Tool(
        "inflate_dynamic",
        "inflating dynamic weights",
        "these are weights of a dynamic network: load them as they are",
        (INFLATE, "other.pth", "tiny.py", "new.pth"),
        spoil=checkpoint(part="backbone"),
    ),
    Tool(
        "inflate_folder",
        "inflating to a folder",
        "new.pth is a folder: name a file to write",
        (INFLATE, "other.pth", "tiny.py", "new.pth"),
        spoil=lambda folder: (checkpoint()(folder), (folder / "new.pth").mkdir()),
    ),
    Tool(
        "inflate_itself",
        "inflating a file into itself",
        "other.pth is the source: name another file",
        (INFLATE, "other.pth", "tiny.py", "other.pth"),
        spoil=checkpoint(part="backbone"),
    ),
    Tool(
        "inflate_noise",
        "inflating with more noise than weights",
        "--noise must be from 0 to 1, got 1000000.0",
        (INFLATE, "other.pth", "tiny.py", "new.pth", "--noise=1e6"),
    ),
    Tool(
        "inflate_diverged",
        "inflating weights of a run that diverged",
        "other.pth has infinite or undefined numbers in conv1.weight: take another "
        "file",
        (INFLATE, "other.pth", "tiny.py", "new.pth"),
        spoil=lambda folder: torch.save(
            {"conv1.weight": torch.full((4, 3, 7, 7), torch.nan)}, folder / "other.pth"
        ),
    ),
    Tool(
        "convert_itself",
        "converting a file into itself",
        "other.pth is the source: name another file",
        (CONVERT, "other.pth", "other.pth"),
        spoil=checkpoint(part="backbone"),
    ),
]
