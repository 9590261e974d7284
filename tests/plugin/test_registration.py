"""Importing the package is all it takes to use it in MMDetection."""

import importlib
import subprocess
import sys
import textwrap

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

import odconv_det
from odconv_det import ODConv2d
from odconv_det.layers import DYNAMIC_CONVOLUTIONS
from odconv_det.plugin import backbones

CONV_CFG = dict(type="ODConv2d", kernel_num=4, reduction=1 / 16)


def layers(module):
    return [m for m in module.modules() if isinstance(m, ODConv2d)]


def run(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("bias", [True, False])
def test_a_conv_module_takes_it_as_conv_cfg(bias):
    module = ConvModule(
        8, 12, 3, stride=2, padding=1, bias=bias, conv_cfg=CONV_CFG, act_cfg=None
    )
    assert isinstance(module.conv, ODConv2d)
    assert (module.conv.bias is not None) == bias
    assert (module.in_channels, module.out_channels) == (8, 12)
    assert (module.transposed, module.output_padding) == (False, (0, 0))
    assert module(torch.rand(2, 8, 9, 7)).shape == (2, 12, 5, 4)


@pytest.mark.parametrize("layer", DYNAMIC_CONVOLUTIONS, ids=lambda cls: cls.__name__)
def test_a_conv_module_takes_every_layer(layer):
    module = ConvModule(
        8,
        12,
        3,
        padding=1,
        conv_cfg=dict(type=layer.__name__),
        norm_cfg=dict(type="BN"),
    )
    module.init_weights()
    assert type(module.conv) is layer
    module(torch.rand(2, 8, 9, 7)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_conv_module_initialises_each_kernel_with_its_own_fan():
    module = ConvModule(64, 128, 3, conv_cfg=CONV_CFG)
    module.init_weights()
    expected = (2 / (128 * 9)) ** 0.5
    assert module.conv.weight.std().item() == pytest.approx(expected, rel=0.03)


def test_necks_heads_and_plain_backbones_take_it():
    fpn = MODELS.build(
        dict(
            type="FPN",
            in_channels=[8, 16],
            out_channels=8,
            num_outs=3,
            conv_cfg=CONV_CFG,
        )
    )
    fpn.init_weights()
    assert len(layers(fpn)) == 4
    maps = fpn([torch.rand(1, 8, 16, 16), torch.rand(1, 16, 8, 8)])
    assert [y.shape[-1] for y in maps] == [16, 8, 4]
    resnet = MODELS.build(
        dict(type="ResNet", depth=18, base_channels=16, conv_cfg=CONV_CFG)
    )
    assert len(layers(resnet)) == 20  # stem and shortcuts too
    assert not [m for m in resnet.modules() if type(m) is nn.Conv2d and m.groups > 1]


@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="FPN", in_channels=[64], out_channels=64, num_outs=1),
        dict(type="RetinaHead", num_classes=2, in_channels=64, feat_channels=64),
        dict(type="ResNet", depth=18),
    ],
    ids=lambda cfg: cfg["type"],
)
def test_init_weights_keeps_the_initialisation_of_the_attention(cfg):
    """An ``init_cfg`` with ``layer='Conv2d'`` is not meant for the attention."""
    module = MODELS.build({**cfg, "conv_cfg": CONV_CFG})
    module.init_weights()
    assert layers(module)
    weights = [layer.attention.fc.weight for layer in layers(module)]
    large = [fc for fc in weights if fc.numel() >= 1000]  # 0.2 are 9 sigma of a std
    assert large
    for fc in large:
        expected = (2 / fc.shape[0]) ** 0.5  # Kaiming normal, fan_out
        assert fc.std().item() == pytest.approx(expected, rel=0.2)


def test_a_config_registers_it_by_importing_the_package(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "custom_imports = dict(imports=['odconv_det'], allow_failed_imports=False)\n"
        "model = dict(type='mmdet.ODMobileNetV2', widen_factor=0.25)\n"
    )
    result = run(f"""
        from mmengine.config import Config
        from mmengine.registry import MODELS
        cfg = Config.fromfile({str(path)!r})
        print(type(MODELS.build(cfg.model)).__name__)
    """)
    assert result.stdout.split()[-1] == "ODMobileNetV2", result.stderr


def test_importing_twice_is_harmless():
    before = MODELS.get("ODConv2d")
    cfg = "custom_imports = dict(imports=['odconv_det'], allow_failed_imports=False)"
    Config.fromstring(cfg, ".py")
    importlib.reload(odconv_det)
    importlib.reload(odconv_det.plugin)
    assert MODELS.get("ODConv2d") is before
    assert MODELS.get("ODResNet") is backbones.ODResNet


def test_a_fresh_reimport_is_harmless():
    """As when a config and a tool both import it under an edited sys.modules."""
    result = run("""
        import sys
        import odconv_det
        for name in [n for n in sys.modules if n.startswith("odconv_det")]:
            del sys.modules[name]
        import odconv_det
        from mmdet.registry import MODELS
        print(MODELS.build(dict(type="ODMobileNetV2", widen_factor=0.25)).train(False))
    """)
    assert "ODConv2d" in result.stdout, result.stderr


def test_a_broken_mmdetection_leaves_the_layers_and_says_so():
    result = run("""
        import sys
        sys.modules["mmcv._ext"] = None  # as where the operators were not built
        sys.modules["mmcv.ops"] = None
        import odconv_det
        print(odconv_det.ODConv2d(8, 8, 3))
    """)
    assert "ODConv2d(" in result.stdout, result.stderr
    assert "only the layers are available" in result.stderr
    assert "python -m odconv_det.env" in result.stderr
