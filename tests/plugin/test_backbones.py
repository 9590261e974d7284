"""MMDetection's own networks, with chosen convolutions dynamic and nothing lost."""

import copy
import warnings

import pytest
import torch
from mmdet.models.backbones import MobileNetV2, ResNet
from mmdet.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det import ODConv2d
from odconv_det.plugin.backbones import (
    DynamicMobileNetV2,
    DynamicResNet,
    OD_MobileNetV2,
    OD_ResNet,
    ODMobileNetV2,
    ODResNet,
)


def small_resnet(**options):
    """ResNet-18 with 16 channels at stride 4: every mechanism, in milliseconds."""
    options = {"depth": 18, "base_channels": 16, "kernel_num": 2, **options}
    return ODResNet(**options)


def small_mobilenet(**options):
    return ODMobileNetV2(**{"widen_factor": 0.25, "kernel_num": 2, **options})


SMALL = [small_resnet, small_mobilenet]


def image(batch=2, size=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, size, size, generator=generator)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def convs(network):
    return {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def dynamic(network):
    return {n for n, m in network.named_modules() if isinstance(m, ODConv2d)}


def loss(network, x):
    return sum(y.square().mean() for y in network(x))


@pytest.mark.parametrize(
    "build, count",
    [
        (lambda: ODResNet(50, kernel_num=1), 26_586_112),
        (lambda: ODResNet(50, kernel_num=4), 88_621_888),
        (lambda: ODMobileNetV2(kernel_num=1), 3_659_185),
        (lambda: ODMobileNetV2(kernel_num=4), 10_231_149),
        # The paper's ImageNet totals without the classifier (peers' table).
        (lambda: ODResNet(18, kernel_num=1), 11_943_944 - 513_000),
        (lambda: ODResNet(18, kernel_num=4), 44_901_640 - 513_000),
        (lambda: ODResNet(101, kernel_num=1), 50_818_769 - 2_049_000),
        (lambda: ODResNet(101, kernel_num=2), 90_441_623 - 2_049_000),
        (lambda: ODMobileNetV2(0.75, kernel_num=4), 7_496_013 - 1_281_000),
        (lambda: ODMobileNetV2(0.5, kernel_num=4), 4_435_501 - 1_281_000),
    ],
)
def test_parameter_counts_are_the_papers(build, count):
    with torch.device("meta"):
        assert parameters(build()) == count


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnet_blocks_are_dynamic_and_stem_and_shortcuts_are_not(depth):
    with torch.device("meta"):
        static, network = ResNet(depth), ODResNet(depth)
    kept = {"conv1"} | {n for n in convs(static) if ".downsample." in n}
    assert dynamic(network) == convs(static) - kept
    assert kept == convs(network)


def test_mobilenet_is_dynamic_except_for_its_stem():
    network = small_mobilenet()
    assert dynamic(network) == convs(MobileNetV2(0.25)) - {"conv1.conv"}
    assert len(dynamic(network)) == 51


@pytest.mark.parametrize("widen_factor", [0.25, 0.5, 0.75, 1.0, 1.4])
def test_mobilenet_takes_any_width(widen_factor):
    network = ODMobileNetV2(widen_factor).eval()
    expected = MobileNetV2(widen_factor)(image(1))
    assert [y.shape for y in network(image(1))] == [y.shape for y in expected]


@pytest.mark.parametrize(
    "name",
    ["ODResNet", "ODMobileNetV2", "OD_ResNet", "OD_MobileNetV2", "ODConv2d"],
)
def test_is_in_the_registry(name):
    assert MODELS.get(name).__name__ == name


@pytest.mark.parametrize("build", SMALL)
def test_every_parameter_gets_a_gradient(build):
    network = build().train()
    loss(network, image()).backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize("build", SMALL)
@pytest.mark.parametrize("out_indices", [(0,), (2, 0), (1, 2)])
def test_what_lies_behind_the_last_map_asks_for_no_gradient(build, out_indices):
    network = build(out_indices=out_indices).train()
    loss(network, image()).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    last = f"layer{max(out_indices) + 1}."
    assert any(p.requires_grad for n, p in network.named_parameters() if last in n)


@pytest.mark.parametrize("build", SMALL)
@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2])
def test_frozen_stages_stop_the_attention_and_every_norm_of_them(build, frozen_stages):
    network = build(frozen_stages=frozen_stages, norm_eval=False)
    before = {n: p.requires_grad for n, p in network.named_parameters()}
    network = network.train()
    names = ("conv1", "bn1", *(f"layer{i}" for i in range(1, 9)))
    frozen = names[: 2 + frozen_stages] if frozen_stages >= 0 else ()
    prefixes = tuple(f"{name}." for name in frozen)
    assert bool(prefixes) == (frozen_stages >= 0)
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == (not name.startswith(prefixes)), name
        assert before[name] == parameter.requires_grad, "DDP counts before train()"
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            inside = (name + ".").startswith(prefixes)
            assert module.training == (not inside), name
    loss(network, image()).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("build", SMALL)
def test_freeze_attention_false_leaves_the_attention_trainable(build):
    network = build(frozen_stages=2, freeze_attention=False, norm_eval=False).train()
    stages = ("layer1.", "layer2.")
    attention = 0
    for name, parameter in network.named_parameters():
        if name.startswith(stages):
            attention += ".attention." in name
            assert parameter.requires_grad == (".attention." in name), name
    assert attention
    for name, module in network.named_modules():
        if name.startswith(stages) and isinstance(module, _BatchNorm):
            assert module.training == (".attention." in name), name
    assert not any(m.training for m in network.eval().modules())


def test_all_of_mobilenet_can_be_frozen():
    network = small_mobilenet(frozen_stages=8).train()
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("build", SMALL)
def test_norm_eval_reaches_the_attention(build):
    network = build(norm_eval=True).train()
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    assert len(norms) > len(dynamic(network))
    assert not any(m.training for m in norms)
    assert network.training


@pytest.mark.parametrize("build", SMALL)
def test_sync_batch_norm_reaches_the_attention(build):
    network = build(norm_cfg=dict(type="SyncBN", requires_grad=True))
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)


@pytest.mark.parametrize("kind", ["mmengine.SyncBN", nn.SyncBatchNorm])
def test_every_spelling_of_sync_batch_norm_reaches_the_attention(kind):
    network = small_mobilenet(norm_cfg=dict(type=kind))
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    assert len(norms) > len(dynamic(network))
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)


def test_a_network_without_norms_keeps_those_of_the_attention():
    network = small_mobilenet(norm_cfg=None)
    norms = [n for n, m in network.named_modules() if isinstance(m, _BatchNorm)]
    assert len(norms) == 51
    assert all(".attention." in name for name in norms)


def test_group_norm_outside_leaves_batch_norm_in_the_attention():
    network = small_resnet(norm_cfg=dict(type="GN", num_groups=4))
    kinds = {type(m).__name__ for m in network.modules() if "Norm" in type(m).__name__}
    assert kinds == {"GroupNorm", "BatchNorm2d"}


@pytest.mark.parametrize("build", SMALL)
def test_activation_checkpointing_gives_the_same_gradients(build):
    plain = build(norm_eval=True).train()
    saving = build(norm_eval=True, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    for network in (plain, saving):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on upstream's use_reentrant
            loss(network, image()).backward()
    pairs = zip(plain.named_parameters(), saving.parameters(), strict=True)
    for (name, one), other in pairs:
        torch.testing.assert_close(one.grad, other.grad, msg=name)


@pytest.mark.parametrize("out_indices", [(0,), (1, 3), (0, 1, 2, 3), range(1, 4)])
def test_resnet_returns_the_chosen_stages(out_indices):
    ys = small_resnet(out_indices=out_indices).eval()(image())
    assert [y.shape[1:] for y in ys] == [
        (16 * 2**i, 16 // 2**i, 16 // 2**i) for i in out_indices
    ]


@pytest.mark.parametrize("style, strided", [("pytorch", "conv2"), ("caffe", "conv1")])
def test_style_decides_which_convolution_strides(style, strided):
    with torch.device("meta"):
        block = ODResNet(50, style=style).layer2[0]
    assert getattr(block, strided).stride == (2, 2)
    assert {block.conv1.stride, block.conv2.stride} == {(1, 1), (2, 2)}


def test_a_deep_stem_stays_static():
    network = small_resnet(deep_stem=True, frozen_stages=0)
    assert not any(name.startswith("stem") for name in dynamic(network))
    assert not any(p.requires_grad for p in network.stem.parameters())
    network.train()(image())


def test_plugins_stay_static():
    attention_block = dict(
        cfg=dict(type="ContextBlock", ratio=0.25),
        stages=(False, True, True, True),
        position="after_conv2",
    )
    network = ODResNet(50, base_channels=16, plugins=[attention_block]).eval()
    added = {n for n in convs(network) if "context_block" in n}
    assert added
    assert not {n for n in dynamic(network) if "context_block" in n}
    assert len(network(image())) == 4


def test_deformable_convolutions_stay_deformable():
    options = dict(dcn=dict(type="DCNv2", deform_groups=1), depth=50, base_channels=16)
    network = ODResNet(stage_with_dcn=(False, True, True, True), **options)
    assert "layer1.0.conv2" in dynamic(network)
    assert type(network.layer2[0].conv2).__name__ == "ModulatedDeformConv2dPack"


@pytest.mark.parametrize("build", SMALL)
def test_init_weights_draws_every_kernel_with_its_own_fan(build):
    network = build()
    network.init_weights()
    layers = [m for m in network.modules() if isinstance(m, ODConv2d)]
    layer = max(layers, key=lambda m: m.weight.numel())
    _, out_channels, _, height, width = layer.weight.shape
    expected = (2 / (out_channels * height * width)) ** 0.5
    assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert all(not m.attention.channel_fc.bias.any() for m in layers)


@pytest.mark.parametrize("build", SMALL)
def test_a_deep_copy_computes_the_same(build):
    network = build().eval()
    clone = copy.deepcopy(network)
    for one, other in zip(network(image()), clone(image()), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("build", SMALL)
def test_trains_under_autocast(build):
    network = build(norm_eval=True).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(network, image())
    value.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: ODResNet(51), "depth.*51"),
        (lambda: ODResNet(18, kernel_num=0), "kernel_num.*0"),
        (lambda: ODResNet(18, reduction=2), "reduction.*2"),
        (lambda: ODResNet(18, frozen_stages=5), "frozen_stages.*5"),
        (lambda: ODResNet(18, out_indices=(4,)), "out_indices.*4"),
        (lambda: ODResNet(18, out_indices=3), "out_indices.*3"),
        (lambda: ODResNet(18, out_indices="0123"), "out_indices.*0123"),
        (lambda: ODResNet(18, conv_cfg=dict(type="ConvWS")), "conv_cfg.*leave.*out"),
        (lambda: ODResNet(18, conv_cfg=dict(type="DCNv2")), "conv_cfg.*DCNv2"),
        (lambda: ODMobileNetV2(out_indices=range(9)), r"out_indices.*range\(0, 9\)"),
        (lambda: OD_MobileNetV2(out_indices=()), r"out_indices.*\(\)"),
        (lambda: ODMobileNetV2(frozen_stages=9), "frozen_stages.*9"),
        (lambda: ODMobileNetV2(out_indices=(8,)), "out_indices.*8"),
        (lambda: OD_MobileNetV2(out_indices=(5,)), "out_indices.*5"),
        (lambda: OD_MobileNetV2(frozen_stages=5), "frozen_stages.*5"),
    ],
)
def test_names_the_argument_it_does_not_support(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class TestReleaseNames:
    def test_od_resnet_takes_the_arguments_of_the_release(self):
        cfg = dict(
            type="OD_ResNet",
            depth=50,
            reduction=0.0625,
            kernel_num=4,
            norm_eval=True,
            out_indices=(0, 1, 2, 3),
            frozen_stages=1,
        )
        with torch.device("meta"):
            network = MODELS.build(cfg)
        assert isinstance(network, OD_ResNet)
        assert parameters(network) == 88_621_888
        assert network.frozen_stages == 1
        assert network.out_indices == (0, 1, 2, 3)

    def test_od_mobilenet_takes_the_arguments_of_the_release(self):
        cfg = dict(
            type="OD_MobileNetV2",
            width_mult=1.0,
            reduction=0.0625,
            kernel_num=4,
            norm_eval=True,
            out_indices=(1, 2, 3, 4),
            frozen_stages=1,
        )
        network = MODELS.build(cfg).eval()
        assert isinstance(network, OD_MobileNetV2)
        assert parameters(network) == 10_231_149
        shapes = [tuple(y.shape[1:]) for y in network(image(1))]
        assert shapes == [(24, 16, 16), (32, 8, 8), (96, 4, 4), (1280, 2, 2)]

    @pytest.mark.parametrize(
        "frozen_stages, features", [(-1, -1), (0, 1), (1, 3), (2, 6), (3, 13), (4, 18)]
    )
    def test_frozen_stages_count_in_strides(self, frozen_stages, features):
        network = OD_MobileNetV2(width_mult=0.25, frozen_stages=frozen_stages)
        blocks = [network.conv1]
        blocks += [b for name in network.layers[:-1] for b in getattr(network, name)]
        blocks += [network.conv2]
        assert len(blocks) == 19  # features.0 to features.18 of the release
        for index, block in enumerate(blocks):
            trainable = {p.requires_grad for p in block.parameters()}
            assert trainable == {index > features}, index

    @pytest.mark.parametrize("cls", [OD_ResNet, OD_MobileNetV2])
    def test_defaults_are_those_of_the_release(self, cls):
        first = (18,) if cls is OD_ResNet else ()
        network = cls(*first, num_classes=10)
        assert network.norm_eval
        assert not any(p.requires_grad for p in network.conv1.parameters())
        assert {
            m.kernel_num for m in network.modules() if hasattr(m, "kernel_num")
        } == {1}

    def test_pretrained_is_a_path(self):
        network = OD_ResNet(18, pretrained="weights.pth")
        assert network.init_cfg == dict(type="Pretrained", checkpoint="weights.pth")


def test_the_static_network_has_mmdetections_parameters():
    ours, theirs = DynamicMobileNetV2(0.25), MobileNetV2(0.25)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_frozen_stages_without_freezing_attention_leave_all_that_is_new_trainable():
    network = DynamicResNet(
        50,
        base_channels=16,
        dynamic=dict(type="DCDConv2d"),
        frozen_stages=1,
        freeze_attention=False,
    )
    layer = network.layer1[0].conv2
    assert not layer.weight.requires_grad
    assert all(p.requires_grad for p in layer.fusion.parameters())
    assert all(p.requires_grad for p in layer.attention.parameters())
