"""Pretrained weights provably load, or training does not start."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, PretrainedInit
from mmengine.runner.checkpoint import load_checkpoint, load_state_dict
from torch import nn

from odconv_det.checkpoints import (
    CheckpointError,
    from_release,
    inflate,
    read_tensors,
    write_tensors,
)
from odconv_det.plugin.backbones import (
    DynamicMobileNetV2,
    DynamicResNet,
    OD_MobileNetV2,
    ODMobileNetV2,
    ODResNet,
)
from tests.golden_weights import golden_state

GOLDEN = Path(__file__).parents[1] / "golden"


def release_file(path, name, dtype=torch.float16):
    """The authors' training checkpoint: prefix, classifier, optimizer and all."""
    keys = json.loads((GOLDEN / f"{name}.keys.json").read_text())
    shapes = {key.removeprefix("module."): shape for key, shape in keys.items()}
    state = {f"module.{k}": t for k, t in golden_state(shapes, 1.4, dtype).items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}
    content = dict(
        epoch=150,
        state_dict=state,
        acc=torch.tensor(70.0),
        best_acc=70.2,
        optimizer=optimizer,
    )
    torch.save(content, path)
    return from_release(state)


@pytest.fixture(scope="module")
def mobilenet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "od_mobilenetv2_0.5_4x.pth.tar"
    return path, release_file(path, "odmobilenetv2_050_4x")


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "odresnet18_4x.pth.tar"
    return path, release_file(path, "odresnet18_4x")


def pretrained(path, **options):
    return dict(init_cfg=dict(type="Pretrained", checkpoint=str(path), **options))


def mobilenet(path, **options):
    options = {"widen_factor": 0.5, "kernel_num": 4, **options}
    return ODMobileNetV2(**options, **pretrained(path))


def assert_holds(network, tensors):
    state = network.state_dict()
    assert set(state) == set(tensors)
    assert all(torch.equal(state[k], t.to(state[k].dtype)) for k, t in tensors.items())


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def log():
    logger = MMLogger.get_current_instance()
    handler = Records()
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


def test_loads_the_authors_file_as_it_is(mobilenet_file, log):
    path, tensors = mobilenet_file
    network = mobilenet(path)
    network.init_weights()
    assert_holds(network, tensors)
    said = [line for line in log if "loaded" in line]
    assert said == [
        f"ODMobileNetV2: loaded {len(tensors)} of {len(tensors)} tensors from {path}"
    ]


def test_loads_into_a_resnet(resnet_file):
    path, tensors = resnet_file
    network = ODResNet(18, kernel_num=4, **pretrained(path))
    network.init_weights()
    assert_holds(network, tensors)


def test_loads_through_the_releases_name(mobilenet_file):
    path, tensors = mobilenet_file
    network = OD_MobileNetV2(width_mult=0.5, kernel_num=4, pretrained=str(path))
    network.init_weights()
    assert_holds(network, tensors)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_loads_a_converted_file(mobilenet_file, tmp_path, suffix):
    _, tensors = mobilenet_file
    path = tmp_path / f"converted{suffix}"
    write_tensors(path, tensors)
    network = mobilenet(path)
    network.init_weights()
    assert_holds(network, tensors)


def test_loads_an_address_from_odconv_home(mobilenet_file, tmp_path, monkeypatch, log):
    path, tensors = mobilenet_file
    monkeypatch.setenv("ODCONV_HOME", str(tmp_path))
    (tmp_path / "mobilenetv2_050_4x.pth.tar").symlink_to(path)
    network = mobilenet("odconv://mobilenetv2_050_4x")
    network.init_weights()
    assert_holds(network, tensors)
    (said,) = [line for line in log if "loaded" in line]
    file = tmp_path / "mobilenetv2_050_4x.pth.tar"
    assert said.endswith(f"from odconv://mobilenetv2_050_4x ({file})")


def test_loads_inside_a_detector(mobilenet_file):
    path, tensors = mobilenet_file

    class Detector(BaseModule):
        def __init__(self):
            super().__init__()
            self.backbone = mobilenet(path)

    detector = Detector()
    detector.init_weights()
    assert_holds(detector.backbone, tensors)


def test_loads_the_backbone_of_a_detector_file(mobilenet_file, tmp_path):
    _, tensors = mobilenet_file
    detector = {f"backbone.{k}": t for k, t in tensors.items()}
    detector["neck.conv.weight"] = torch.zeros(1)
    write_tensors(tmp_path / "detector.pth", detector)
    network = mobilenet(tmp_path / "detector.pth")
    network.init_weights()
    assert_holds(network, tensors)


def test_loads_what_lies_under_a_prefix(mobilenet_file, tmp_path):
    _, tensors = mobilenet_file
    path = tmp_path / "student.pth"
    write_tensors(path, {f"student.{k}": t for k, t in tensors.items()})
    for prefix in ("student.", "student"):
        network = ODMobileNetV2(0.5, kernel_num=4, **pretrained(path, prefix=prefix))
        network.init_weights()
        assert_holds(network, tensors)
    network = ODMobileNetV2(0.5, kernel_num=4, **pretrained(path, prefix="teacher."))
    with pytest.raises(CheckpointError, match="teacher"):
        network.init_weights()


def test_the_releases_names_may_lie_under_a_prefix(mobilenet_file, tmp_path):
    path, tensors = mobilenet_file
    release = read_tensors(path)
    wrapped = {key.replace("module.", "encoder."): t for key, t in release.items()}
    write_tensors(tmp_path / "wrapped.pth", wrapped)
    network = ODMobileNetV2(
        0.5, kernel_num=4, **pretrained(tmp_path / "wrapped.pth", prefix="encoder")
    )
    network.init_weights()
    assert_holds(network, tensors)


@pytest.mark.parametrize("kind", ["mmengine.Pretrained", PretrainedInit])
def test_every_spelling_of_pretrained_is_strict(mobilenet_file, kind):
    init_cfg = dict(type=kind, checkpoint=str(mobilenet_file[0]))
    network = ODMobileNetV2(0.5, kernel_num=2, init_cfg=init_cfg)
    with pytest.raises(CheckpointError, match="kernel_num=4"):
        network.init_weights()


def test_part_of_a_plugin_is_not_enough(tmp_path):
    block = dict(cfg=dict(type="ContextBlock", ratio=0.25), position="after_conv2")
    options = dict(depth=50, base_channels=16, plugins=[block])
    state = ODResNet(**options).state_dict()
    removed = next(key for key in state if "context_block" in key)
    del state[removed]
    write_tensors(tmp_path / "w.pth", state)
    network = ODResNet(**options, **pretrained(tmp_path / "w.pth"))
    with pytest.raises(CheckpointError, match=re.escape(f"1 missing ({removed})")):
        network.init_weights()


def test_loads_static_weights_into_the_static_network(tmp_path):
    source = DynamicMobileNetV2(0.25)
    write_tensors(tmp_path / "static.pth", source.state_dict())
    network = DynamicMobileNetV2(0.25, **pretrained(tmp_path / "static.pth"))
    network.init_weights()
    assert_holds(network, source.state_dict())


def test_plugins_start_fresh(tmp_path, log):
    plain = ODResNet(50, base_channels=16)
    write_tensors(tmp_path / "plain.pth", plain.state_dict())
    block = dict(cfg=dict(type="ContextBlock", ratio=0.25), position="after_conv2")
    network = ODResNet(
        50, base_channels=16, plugins=[block], **pretrained(tmp_path / "plain.pth")
    )
    network.init_weights()
    state = network.state_dict()
    assert all(torch.equal(state[k], t) for k, t in plain.state_dict().items())
    assert any("of plugins start fresh" in line for line in log)


@pytest.mark.parametrize(
    "build, says",
    [
        (
            lambda path: mobilenet(path, kernel_num=1),
            "made with kernel_num=4, this network has kernel_num=1",
        ),
        (
            lambda path: mobilenet(path, widen_factor=1.0),
            "made with widen_factor=0.5, this network has widen_factor=1",
        ),
        (
            lambda path: mobilenet(path, reduction=0.25),
            "made with reduction=0.0625, this network has reduction=0.25",
        ),
        (
            lambda path: ODResNet(18, kernel_num=4, **pretrained(path)),
            "made with network=MobileNetV2, this network has network=ResNet",
        ),
        (
            lambda path: DynamicMobileNetV2(0.5, **pretrained(path)),
            "made with kernel_num=4, this network has kernel_num=static",
        ),
    ],
)
def test_says_which_setting_the_file_was_made_with(mobilenet_file, build, says):
    network = build(mobilenet_file[0])
    with pytest.raises(CheckpointError) as caught:
        network.init_weights()
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert re.search(
        r"\((conv1|layer)[\w.]+[, ].*\.\.\.\)", message
    )  # the first few keys


def test_says_which_depth_the_file_was_made_with(resnet_file):
    network = ODResNet(34, kernel_num=4, **pretrained(resnet_file[0]))
    with pytest.raises(CheckpointError, match="depth=18, this network has depth=34"):
        network.init_weights()


def test_one_missing_tensor_is_an_error(mobilenet_file, tmp_path):
    tensors = dict(mobilenet_file[1])
    del tensors["layer3.1.expand_conv.conv.attention.fc.weight"]
    write_tensors(tmp_path / "w.pth", tensors)
    with pytest.raises(CheckpointError, match=r"1 missing \(layer3\.1\.expand_conv"):
        mobilenet(tmp_path / "w.pth").init_weights()


class TestMissingFile:
    """A resumed run brings its own weights: it must not need the ImageNet file."""

    def network(self, tmp_path):
        network = ODMobileNetV2(0.25, **pretrained(tmp_path / "not_there.pth"))
        network.init_weights()
        return network

    def test_stops_training_at_the_first_forward_pass(self, tmp_path, log):
        network = self.network(tmp_path)
        assert any("not_there.pth" in line for line in log)
        with pytest.raises(CheckpointError, match="not_there.pth"):
            network(torch.zeros(2, 3, 64, 64))

    @pytest.mark.parametrize("load", [load_state_dict, nn.Module.load_state_dict])
    @pytest.mark.parametrize("prefix", ["", "backbone."])
    def test_is_forgotten_when_a_checkpoint_is_loaded(self, tmp_path, load, prefix):
        network = self.network(tmp_path)
        module = nn.ModuleDict({"backbone": network}) if prefix else network
        load(module, module.state_dict())
        network(torch.zeros(2, 3, 64, 64))

    def test_is_not_forgotten_when_a_checkpoint_has_other_weights(self, tmp_path):
        network = self.network(tmp_path)
        state = network.state_dict()
        del state["conv2.bn.bias"]
        network.load_state_dict(state, strict=False)
        other = ODMobileNetV2(0.25, kernel_num=2).state_dict()
        load_state_dict(network, other)  # mmengine goes on after a wrong shape
        with pytest.raises(CheckpointError, match="not_there.pth"):
            network(torch.zeros(2, 3, 64, 64))

    def test_is_not_asked_for_again_by_a_second_init_weights(self, tmp_path):
        network = self.network(tmp_path)
        network.load_state_dict(network.state_dict())
        network.init_weights()
        network(torch.zeros(2, 3, 64, 64))


def test_the_config_is_left_as_it_was(mobilenet_file):
    cfg = dict(
        type="ODMobileNetV2",
        widen_factor=0.5,
        kernel_num=4,
        **pretrained(mobilenet_file[0]),
    )
    before = json.dumps(cfg)
    network = MODELS.build(cfg)
    network.init_weights()
    assert json.dumps(cfg) == before
    assert network.init_cfg == cfg["init_cfg"]


def test_mmengine_takes_an_address_as_a_checkpoint(
    mobilenet_file, tmp_path, monkeypatch
):
    path, tensors = mobilenet_file
    monkeypatch.setenv("ODCONV_HOME", str(tmp_path))
    (tmp_path / "mobilenetv2_050_4x.pth.tar").symlink_to(path)
    network = ODMobileNetV2(0.5, kernel_num=4)
    load_checkpoint(network, "odconv://mobilenetv2_050_4x", strict=True)
    assert_holds(network, tensors)


class TestInflate:
    """``inflate=...``: the weights of the static network are a start as well."""

    def static(self, tmp_path, rename=dict):
        torch.manual_seed(0)
        weights = DynamicMobileNetV2(0.25).state_dict()
        write_tensors(tmp_path / "static.pth", rename(weights))
        return tmp_path / "static.pth", weights

    def network(self, path, inflate=True, **options):
        dynamic = dict(type="DyConv2d", kernel_num=2)
        feature_attention = dict(type="SE")
        return DynamicMobileNetV2(
            0.25,
            dynamic=dynamic,
            feature_attention=feature_attention,
            **pretrained(path, inflate=inflate, **options),
        )

    def test_starts_from_a_static_file(self, tmp_path, log):
        path, weights = self.static(tmp_path)
        network = self.network(path)
        network.init_weights()
        assert_holds(network, inflate(weights, network))
        total = len(network.state_dict())
        said = [line for line in log if "DynamicMobileNetV2:" in line]
        assert said == [
            f"DynamicMobileNetV2: inflated {total} of {total} tensors from {path}"
        ]
        x = torch.randn(2, 3, 64, 64)
        source = DynamicMobileNetV2(0.25).eval()
        source.load_state_dict(weights)
        for y, expected in zip(network.eval()(x), source(x), strict=True):
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "options", [dict(noise=0.3), dict(seed=5), dict(noise=0.3, seed=5), {}]
    )
    def test_takes_noise_and_seed(self, tmp_path, options):
        path, weights = self.static(tmp_path)
        network = self.network(path, inflate=options or True)
        network.init_weights()
        assert_holds(network, inflate(weights, network, **options))
        other = inflate(weights, network, noise=0.01, seed=6)
        key = "conv2.conv.weight"
        assert not torch.equal(network.state_dict()[key], other[key])

    def test_an_empty_dict_has_the_defaults(self, tmp_path):
        path, weights = self.static(tmp_path)
        network = self.network(path, inflate={})
        network.init_weights()
        assert_holds(network, inflate(weights, network))

    def test_a_dynamic_file_is_loaded_as_it_is(self, tmp_path, log):
        source = self.network("")
        write_tensors(tmp_path / "dynamic.pth", source.state_dict())
        network = self.network(tmp_path / "dynamic.pth")
        network.init_weights()
        assert_holds(network, source.state_dict())
        assert any(": loaded " in line for line in log)
        assert not any("inflated" in line for line in log)

    def test_a_file_of_the_release_is_loaded_as_it_is(self, mobilenet_file):
        path, tensors = mobilenet_file
        network = ODMobileNetV2(0.5, kernel_num=4, **pretrained(path, inflate=True))
        network.init_weights()
        assert_holds(network, tensors)

    def test_reads_a_detector_and_a_prefix(self, tmp_path):
        def detector(weights):
            return {f"backbone.{k}": t for k, t in weights.items()} | {
                "neck.weight": torch.zeros(1)
            }

        path, weights = self.static(tmp_path, detector)
        for options in ({}, dict(prefix="backbone"), dict(prefix="backbone.")):
            network = self.network(path, **options)
            network.init_weights()
            assert_holds(network, inflate(weights, network))

    def test_a_static_network_loads_its_file(self, tmp_path, log):
        path, weights = self.static(tmp_path)
        network = DynamicMobileNetV2(0.25, **pretrained(path, inflate=True))
        network.init_weights()
        assert_holds(network, weights)
        assert any(": loaded " in line for line in log)

    def test_without_it_a_static_file_does_not_fit(self, tmp_path):
        path, _ = self.static(tmp_path)
        with pytest.raises(CheckpointError, match="kernel_num=static"):
            self.network(path, inflate=False).init_weights()

    def test_a_static_file_of_another_network_raises(self, tmp_path):
        path, _ = self.static(tmp_path)
        network = DynamicMobileNetV2(
            0.5, dynamic=dict(type="DyConv2d"), **pretrained(path, inflate=True)
        )
        with pytest.raises(CheckpointError, match=r"widen_factor=0\.25") as caught:
            network.init_weights()
        assert str(path) in str(caught.value)

    def test_a_dynamic_file_of_another_network_raises(self, mobilenet_file):
        path = mobilenet_file[0]
        network = ODMobileNetV2(0.5, kernel_num=2, **pretrained(path, inflate=True))
        with pytest.raises(CheckpointError, match="made with kernel_num=4, .*=2"):
            network.init_weights()

    def test_a_wrong_option_raises(self, tmp_path):
        path, _ = self.static(tmp_path)
        with pytest.raises(ValueError, match="noise and seed, got .*sede"):
            self.network(path, inflate=dict(sede=1)).init_weights()

    @pytest.mark.parametrize("dynamic_file", [False, True])
    def test_plugins_start_fresh(self, tmp_path, log, dynamic_file):
        """As they do without inflation."""
        block = dict(cfg=dict(type="ContextBlock", ratio=0.25), position="after_conv2")
        dynamic = dict(type="DyConv2d", kernel_num=2)
        options = dict(depth=50, base_channels=16)
        plain = DynamicResNet(**options, dynamic=dynamic if dynamic_file else None)
        write_tensors(tmp_path / "plain.pth", plain.state_dict())
        network = DynamicResNet(
            **options,
            dynamic=dynamic,
            plugins=[block],
            **pretrained(tmp_path / "plain.pth", inflate=True),
        )
        network.init_weights()
        bank = network.layer1[0].conv1.weight.mean(0)
        expected = plain.layer1[0].conv1.weight
        expected = expected.mean(0) if dynamic_file else expected
        torch.testing.assert_close(bank, expected)
        assert any("of plugins start fresh" in line for line in log)

    def test_a_missing_file_stops_training_only(self, tmp_path):
        network = self.network(tmp_path / "not_there.pth")
        network.init_weights()
        with pytest.raises(CheckpointError, match="not_there.pth"):
            network(torch.zeros(2, 3, 64, 64))

    def test_the_config_is_left_as_it_was(self, tmp_path):
        path, _ = self.static(tmp_path)
        cfg = dict(
            type="DynamicMobileNetV2",
            widen_factor=0.25,
            dynamic=dict(type="ODConv2d", kernel_num=2),
            **pretrained(path, inflate=dict(noise=0.2, seed=1)),
        )
        before = json.dumps(cfg)
        network = MODELS.build(cfg)
        network.init_weights()
        assert json.dumps(cfg) == before
        assert network.init_cfg == cfg["init_cfg"]


@pytest.mark.parametrize("value", [0.1, "yes", dict(nois=0.1)])
def test_inflate_with_a_wrong_value_is_named(value, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "static.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "static.pth"))
    network = ODResNet(18, base_channels=16, init_cfg=init | dict(inflate=value))
    with pytest.raises(ValueError, match="inflate in an init_cfg must be True or"):
        network.init_weights()
