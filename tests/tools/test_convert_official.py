"""tools/convert_official.py on files with the release's exact names and shapes."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from odconv_det.checkpoints import from_release, read_tensors
from odconv_det.plugin.backbones import ODMobileNetV2

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "odconv" / "mask-rcnn_mobilenetv2-odconv4x_fpn_1x_coco.py"

_spec = importlib.util.spec_from_file_location(
    "convert_official", ROOT / "tools" / "convert_official.py"
)
convert = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(convert)


def release_state(prefix):
    path = ROOT / "tests" / "golden" / "odmobilenetv2_100_4x.keys.json"
    generator = torch.Generator().manual_seed(0)
    return {
        prefix + key.removeprefix("module."): torch.rand(shape, generator=generator)
        for key, shape in json.loads(path.read_text()).items()
    }


@pytest.fixture(scope="module")
def imagenet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("imagenet") / "model_best.pth.tar"
    torch.save(dict(epoch=150, state_dict=release_state("module."), acc=75.3), path)
    return path


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory):
    """A file as MMDetection 2.x saves it, of Mask R-CNN with the 4x MobileNetV2."""
    path = tmp_path_factory.mktemp("coco") / "epoch_12.pth"
    register_all_modules(init_default_scope=True)
    model = Config.fromfile(CONFIG).model
    detector = MODELS.build(model)
    state = {
        key: tensor
        for key, tensor in detector.state_dict().items()
        if not key.startswith("backbone.")
    }
    meta = dict(mmdet_version="2.18.0", CLASSES=("person", "bicycle"), epoch=12)
    torch.save(dict(meta=meta, state_dict=release_state("backbone.") | state), path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_imagenet_file_becomes_a_backbone(imagenet_file, tmp_path, capsys, suffix):
    output = tmp_path / f"converted{suffix}"
    arguments = [str(imagenet_file), str(output), f"--config={CONFIG}"]
    assert convert.main(arguments) == 0
    assert "all 924 tensors of ODMobileNetV2" in capsys.readouterr().out
    converted, expected = read_tensors(output), from_release(release_state(""))
    ODMobileNetV2(kernel_num=4).load_state_dict(converted, strict=True)
    assert all(torch.equal(converted[key], t) for key, t in expected.items())


def test_a_detector_file_covers_its_detector(detector_file, tmp_path, capsys):
    output = tmp_path / "detector.pth"
    assert convert.main([str(detector_file), str(output), f"--config={CONFIG}"]) == 0
    assert "of MaskRCNN" in capsys.readouterr().out
    detector = MODELS.build(Config.fromfile(CONFIG).model)
    detector.load_state_dict(read_tensors(output), strict=True)


@pytest.mark.parametrize(
    "config, says",
    [
        (
            "odconv/mask-rcnn_mobilenetv2-odconv1x_fpn_1x_coco.py",
            "made with kernel_num=4, this network has kernel_num=1",
        ),
        ("odconv/mask-rcnn_r50-odconv4x_fpn_1x_coco.py", "network=MobileNetV2"),
        ("baseline/mask-rcnn_mobilenetv2_fpn_1x_coco.py", "kernel_num=static"),
    ],
)
@pytest.mark.parametrize("kind", ["imagenet_file", "detector_file"])
def test_a_file_that_does_not_cover_the_config_is_not_written(
    kind, config, says, tmp_path, capsys, request
):
    output = tmp_path / "converted.pth"
    source = request.getfixturevalue(kind)
    arguments = [str(source), str(output), f"--config={ROOT / 'configs' / config}"]
    assert convert.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not output.exists()


@pytest.mark.parametrize("source", ["gone.pth.tar", "odconv://resnet5000", __file__])
def test_a_bad_source_is_one_line(source, tmp_path, capsys):
    assert convert.main([source, str(tmp_path / "w.pth")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert source in line


def test_a_bad_output_is_one_line(imagenet_file, tmp_path, capsys):
    assert convert.main([str(imagenet_file), str(tmp_path / "w.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "w.onnx" in line
