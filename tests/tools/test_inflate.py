"""The command that makes a start from static weights, on real files."""

import importlib.util
from pathlib import Path

import pytest
import torch
from mmdet.models.backbones import MobileNetV2, ResNet
from mmdet.registry import MODELS
from torch import nn

from odconv_det.checkpoints import read_tensors

ROOT = Path(__file__).parents[2]
CONFIG = """
custom_imports = dict(imports=["odconv_det"], allow_failed_imports=False)
model = dict(type="FasterRCNN", backbone={})
"""
BACKBONES = {
    "resnet": dict(
        type="DynamicResNet",
        depth=18,
        base_channels=16,
        dynamic=dict(type="DyConv2d", kernel_num=2),
        init_cfg=dict(type="Pretrained", checkpoint="not/there.pth"),
    ),
    "mobilenetv2": dict(
        type="DynamicMobileNetV2",
        widen_factor=0.25,
        dynamic=dict(type="CondConv2d", kernel_num=2),
        where=dict(last_blocks=6),
        feature_attention=dict(type="SE"),
    ),
}


_spec = importlib.util.spec_from_file_location("inflate", ROOT / "tools" / "inflate.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def run(*words):
    return tool.main([str(word) for word in words])


@pytest.fixture
def files(tmp_path):
    """Static weights of both networks, and a config for each."""
    torch.manual_seed(0)
    networks = {
        "resnet": ResNet(18, base_channels=16),
        "mobilenetv2": MobileNetV2(0.25),
    }
    for name, network in networks.items():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 1.5)
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
        (tmp_path / f"{name}.py").write_text(CONFIG.format(BACKBONES[name]))
    return tmp_path


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", BACKBONES)
def test_writes_a_start_that_the_backbone_loads(name, suffix, files, capsys):
    output = files / f"start.{suffix}"
    assert run(files / f"{name}.pth", files / f"{name}.py", output, "--seed=3") == 0
    assert "maps equal the static network's to" in capsys.readouterr().out
    cfg = dict(
        BACKBONES[name], init_cfg=dict(type="Pretrained", checkpoint=str(output))
    )
    network = MODELS.build(cfg)
    network.init_weights()
    tensors = read_tensors(output)
    for key, value in network.state_dict().items():
        assert torch.equal(value, tensors[key])


@pytest.mark.parametrize(
    "source, output, message",
    [
        ("mobilenetv2.pth", "start.pth", "the static weights do not fit"),
        ("gone.pth", "start.pth", "no weight file at"),
        ("resnet.pth", "start.bin", "write .safetensors or .pth"),
    ],
)
def test_a_wrong_file_is_one_line_and_writes_nothing(
    source, output, message, files, capsys
):
    assert run(files / source, files / "resnet.py", files / output) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (files / output).exists()
