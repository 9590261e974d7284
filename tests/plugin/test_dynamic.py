"""Every layer and attention in MMDetection's networks, necks and heads."""

import copy
import functools
import warnings

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.model.utils import convert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det import fuse
from odconv_det.checkpoints import CheckpointError
from odconv_det.layers import (
    DYNAMIC_CONVOLUTIONS,
    FEATURE_ATTENTIONS,
    AttendedNorm,
    CGConv2d,
    CondConv2d,
    DCDConv2d,
    DyConv2d,
    DynamicConv2d,
    ODConv2d,
)
from odconv_det.layers.pointwise import Pointwise
from odconv_det.plugin.backbones import (
    DynamicMobileNetV2,
    DynamicResNet,
    ODMobileNetV2,
    ODResNet,
)
from tests.calibrated import calibrate, pictures

# Every mechanism of the networks, in milliseconds.
SMALL = {
    "resnet": functools.partial(DynamicResNet, 18, base_channels=16),
    "mobilenet": functools.partial(DynamicMobileNetV2, 0.25),
}
# Each layer, each attention, and layer and attention together.
FEW = {ODConv2d: dict(kernel_num=2), CondConv2d: dict(kernel_num=3)}
KINDS = {
    **{
        c.__name__: dict(dynamic=dict(type=c.__name__, **FEW.get(c, {})))
        for c in DYNAMIC_CONVOLUTIONS
    },
    **{
        c.__name__: dict(feature_attention=dict(type=c.__name__))
        for c in FEATURE_ATTENTIONS
    },
    "CondConv2d and SE": dict(
        dynamic=dict(type="CondConv2d", kernel_num=3), feature_attention=dict(type="SE")
    ),
}
every_network = pytest.mark.parametrize("name", SMALL)
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(name, kind, **options):
    torch.manual_seed(0)
    return SMALL[name](**{**KINDS.get(kind, {}), **options})


def dynamic(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, DynamicConv2d)}


def attended(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, AttendedNorm)}


def norms(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, _BatchNorm)}


def loss(network, x):
    return sum(y.square().mean() for y in network(x))


def assert_gradients(module):
    """Where one is asked for, and nowhere else."""
    wrong = [
        name
        for name, parameter in module.named_parameters()
        if (parameter.grad is not None) != parameter.requires_grad
    ]
    assert wrong == []


@functools.cache
def _calibrated(name, kind):
    network = build(name, kind)
    with torch.no_grad():
        for module_name, module in network.named_modules():
            # As initialised, some attentions are so steep that no map is well
            # conditioned, and DCD's product of them grows from block to block.
            if isinstance(module, Pointwise) and ".attention." in module_name:
                module.weight.mul_(0.02)
    return calibrate(network).double()


def calibrated(name, kind):
    """In float64, where any difference is none of rounding."""
    return copy.deepcopy(_calibrated(name, kind))


def images(size=64):
    return pictures(2, size).double()


@torch.no_grad()
def assert_same(network, other, tolerance=1e-10):
    x = images().to(next(other.parameters()).dtype)
    for y, expected in zip(network(x), other(x), strict=True):
        assert expected.isfinite().all()
        error = (y - expected).abs().max() / expected.abs().max()
        assert error.item() <= tolerance


class TestBackbones:
    @every_network
    @every_kind
    def test_every_parameter_gets_a_gradient(self, name, kind):
        network = build(name, kind, norm_eval=False).train()
        assert dynamic(network) or attended(network)
        loss(network, pictures(2, 64)).backward()
        assert_gradients(network)
        assert all(p.requires_grad for p in network.parameters())
        assert all(p.grad.isfinite().all() for p in network.parameters())

    @every_network
    @every_kind
    @pytest.mark.parametrize("freeze_attention", [True, False])
    def test_frozen_stages_stop_all_but_the_attention(
        self, name, kind, freeze_attention
    ):
        network = build(
            name,
            kind,
            frozen_stages=2,
            freeze_attention=freeze_attention,
            norm_eval=False,
        ).train()
        frozen = ("conv1.", "bn1.", "layer1.", "layer2.")
        kept = [
            n
            for n, p in network.named_parameters()
            if n.startswith(frozen) and p.requires_grad
        ]
        new = (".attention.", ".fusion.")
        assert all(any(part in n for part in new) for n in kept)
        assert bool(kept) != freeze_attention
        for n, norm in norms(network).items():
            free = not freeze_attention and any(part in n for part in new)
            assert norm.training == (free or not f"{n}.".startswith(frozen)), n
        loss(network, pictures(2, 32)).backward()
        assert_gradients(network)

    @every_network
    @every_kind
    def test_activation_checkpointing_changes_nothing(self, name, kind):
        plain = calibrated(name, kind)
        saving = build(name, kind, norm_eval=True, with_cp=True).double()
        saving.load_state_dict(plain.state_dict())
        plain.norm_eval = True
        ys = []
        for network in (plain.train(), saving.train()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch on upstream's use_reentrant
                maps = network(images(32))
                sum(y.square().mean() for y in maps).backward()
            ys.append(maps)
        for one, other in zip(*ys, strict=True):
            torch.testing.assert_close(one, other)
        pairs = zip(plain.named_parameters(), saving.parameters(), strict=True)
        for (n, one), other in pairs:
            torch.testing.assert_close(one.grad, other.grad, msg=n)

    @every_network
    @every_kind
    def test_fused_it_computes_the_same(self, name, kind):
        network = calibrated(name, kind)
        assert_same(fuse(copy.deepcopy(network)), network)

    @every_kind
    def test_fused_it_computes_the_same_in_single_precision(self, kind):
        network = calibrated("resnet", kind).float()
        assert_same(fuse(copy.deepcopy(network)), network, 1e-4)

    @every_network
    @every_kind
    def test_a_deep_copy_computes_the_same_by_itself(self, name, kind):
        network, expected = calibrated(name, kind), calibrated(name, kind)
        clone = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        assert_same(clone, expected)

    @every_network
    @every_kind
    def test_its_state_dict_makes_another_one_the_same(self, name, kind, tmp_path):
        network = calibrated(name, kind)
        torch.save(network.state_dict(), tmp_path / "w.pth")
        torch.manual_seed(1)
        other = SMALL[name](**KINDS[kind]).double().eval()
        other.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True))
        assert_same(other, network)

    @every_network
    @every_kind
    def test_batch_norms_become_synchronised(self, name, kind):
        network = calibrated(name, kind)
        converted = convert_sync_batchnorm(calibrated(name, kind)).eval()
        assert set(norms(converted)) == set(norms(network))
        assert all(isinstance(m, nn.SyncBatchNorm) for m in norms(converted).values())
        assert_same(converted, network)

    @every_network
    @pytest.mark.parametrize("attention", ["SE", "CBAM", "ECA"])
    def test_feature_attention_ends_every_block(self, name, attention):
        network = build(name, attention)
        stages = network._stages()
        blocks = [
            b for stage in stages if isinstance(stage, nn.Sequential) for b in stage
        ]
        if name == "mobilenet":
            blocks = [b for b in blocks if hasattr(b, "linear_conv")]
        assert len(attended(network)) == len(blocks) == (8 if name == "resnet" else 17)
        for block in blocks:
            last = block.norm2 if name == "resnet" else block.linear_conv.norm
            assert isinstance(last, AttendedNorm)
            assert type(last.attention).__name__ == attention


class TestNormCfg:
    """The network's BatchNorm is that of the layers that have one."""

    @every_network
    @pytest.mark.parametrize("layer", [ODConv2d, DCDConv2d, CGConv2d])
    @pytest.mark.parametrize("kind", ["SyncBN", "mmengine.SyncBN", nn.SyncBatchNorm])
    def test_reaches_the_layers(self, name, layer, kind):
        cfg = dict(type=kind, eps=2e-3, momentum=0.3, requires_grad=True)
        network = build(name, layer.__name__, norm_cfg=cfg)
        inside = [
            m for layer in dynamic(network).values() for m in norms(layer).values()
        ]
        assert len(inside) >= len(dynamic(network))
        for norm in inside:
            assert isinstance(norm, nn.SyncBatchNorm)
            assert (norm.eps, norm.momentum) == (2e-3, 0.3)

    @pytest.mark.parametrize("layer", ["DyConv2d", "CondConv2d", "WEConv2d"])
    def test_is_not_given_to_those_that_have_none(self, layer):
        network = build("resnet", layer, norm_cfg=dict(type="SyncBN"))
        assert dynamic(network)

    def test_of_the_layer_itself_comes_first(self):
        own = dict(type="BN", eps=7e-3)
        network = build(
            "resnet",
            None,
            dynamic=dict(type="ODConv2d", norm_cfg=own),
            norm_cfg=dict(type="SyncBN"),
        )
        for layer in dynamic(network).values():
            assert layer.attention.bn.eps == 7e-3
            assert not isinstance(layer.attention.bn, nn.SyncBatchNorm)

    @pytest.mark.parametrize("layer", ["ODConv2d", "DCDConv2d", "CGConv2d"])
    def test_of_another_kind_stays_outside(self, layer):
        network = build("resnet", layer, norm_cfg=dict(type="GN", num_groups=4))
        assert norms(network)
        assert all(isinstance(m, nn.BatchNorm2d) for m in norms(network).values())
        assert isinstance(network.layer1[0].norm1, nn.GroupNorm)

    def test_a_class_names_the_layer_as_well(self):
        network = build(
            "resnet", None, dynamic=dict(type=ODConv2d), norm_cfg=dict(type="SyncBN")
        )
        layer = network.layer1[0].conv1
        assert isinstance(layer.attention.bn, nn.SyncBatchNorm)


class TestODConvDefaults:
    """ODResNet and ODMobileNetV2 are settings of the general networks."""

    @pytest.mark.parametrize(
        "ours, general",
        [
            (functools.partial(ODResNet, 18), functools.partial(DynamicResNet, 18)),
            (functools.partial(ODResNet, 50), functools.partial(DynamicResNet, 50)),
            (ODMobileNetV2, DynamicMobileNetV2),
        ],
    )
    def test_have_the_same_tensors(self, ours, general):
        options = dict(kernel_num=4, reduction=1 / 4)
        with torch.device("meta"):
            one = ours(**options)
            other = general(dynamic=dict(type="ODConv2d", **options))
        assert [(k, t.shape) for k, t in one.state_dict().items()] == [
            (k, t.shape) for k, t in other.state_dict().items()
        ]

    def test_are_1x_of_a_sixteenth(self):
        with torch.device("meta"):
            one, other = ODResNet(18), DynamicResNet(18, dynamic=dict(type="ODConv2d"))
        assert {m.kernel_num for m in dynamic(one).values()} == {1}
        assert {m.reduction for m in dynamic(one).values()} == {1 / 16}
        assert dynamic(one).keys() == dynamic(other).keys()

    @pytest.mark.parametrize("ours", [functools.partial(ODResNet, 18), ODMobileNetV2])
    def test_take_where_and_feature_attention(self, ours):
        with torch.device("meta"):
            network = ours(where=dict(stages=(3,)), feature_attention=dict(type="ECA"))
        assert dynamic(network)
        assert all(name.startswith("layer3.") for name in dynamic(network))
        assert attended(network)


class TestWhere:
    def test_says_which_convolutions(self):
        network = build(
            "mobilenet", "DyConv2d", where=dict(stages=[7, 8], kernel_sizes=[1])
        )
        assert list(dynamic(network)) == [
            "layer7.0.expand_conv.conv",
            "layer7.0.linear_conv.conv",
            "conv2.conv",
        ]

    def test_may_be_empty(self):
        assert dynamic(build("resnet", "DyConv2d", where={})).keys() == (
            dynamic(build("resnet", "DyConv2d")).keys()
        )

    def test_may_include_the_stem(self):
        network = build(
            "resnet", "CGConv2d", where=dict(stages=(0, 1), kernel_sizes=(3, 7))
        )
        assert isinstance(network.conv1, CGConv2d)
        network.train()(pictures(2, 64))

    @every_network
    def test_without_a_layer_is_an_error(self, name):
        with pytest.raises(ValueError, match=r"where=.*dynamic=dict\(type"):
            build(name, None, where=dict(stages=(4,)))

    @every_network
    def test_that_chooses_nothing_is_an_error(self, name):
        with pytest.raises(ValueError, match="no convolution"):
            build(name, "DyConv2d", where=dict(kernel_sizes=(11,)))

    def test_is_left_as_it_was(self):
        cfg = dict(
            type="DynamicResNet",
            depth=18,
            base_channels=16,
            dynamic=dict(type="ODConv2d", kernel_num=2),
            where=dict(stages=[4]),
            feature_attention=dict(type="SE", reduction=8),
        )
        before = copy.deepcopy(cfg)
        MODELS.build(cfg)
        assert cfg == before
        assert dynamic(MODELS.build(ConfigDict(cfg)))


def context_block(**options):
    return dict(
        cfg=dict(type="ContextBlock", ratio=0.25, **options), position="after_conv3"
    )


class TestPlugins:
    def test_of_mmdetection_stay_static(self):
        network = DynamicResNet(
            50,
            base_channels=16,
            dynamic=dict(type="DyConv2d"),
            plugins=[context_block()],
        )
        convs = [n for n, m in network.named_modules() if type(m) is nn.Conv2d]
        assert len([n for n in convs if "context_block" in n]) == 3 * 16
        assert not [n for n in dynamic(network) if "context_block" in n]
        assert len(dynamic(network)) == 3 * 16
        network.train()(pictures(2, 64))

    def test_share_no_routing_with_their_block(self):
        network = DynamicResNet(
            50,
            base_channels=16,
            dynamic=dict(type="CondConv2d", kernel_num=2),
            plugins=[context_block()],
        )
        loss(network.train(), pictures(2, 64)).backward()
        assert_gradients(network)

    def test_go_with_names_that_choose_them_not(self):
        """Where nothing else is chosen, that is said."""
        with pytest.raises(ValueError, match="only layers that stay static"):
            DynamicResNet(
                50,
                base_channels=16,
                dynamic=dict(type="DyConv2d"),
                where=dict(names=".*context_block.*"),
                plugins=[context_block()],
            )

    def test_exclude_feature_attention(self):
        with pytest.raises(ValueError, match="plugins and feature_attention"):
            DynamicResNet(
                50, plugins=[context_block()], feature_attention=dict(type="SE")
            )


class TestInitWeights:
    @every_network
    def test_draws_every_kernel_with_its_own_fan(self, name):
        network = build(name, None, dynamic=dict(type="CondConv2d", kernel_num=4))
        network.init_weights()
        for layer in dynamic(network).values():
            kernel = layer.weight
            if kernel[0].numel() > 1000:
                fan_out = kernel[0].numel() / kernel.shape[2]
                expected = (2 / fan_out) ** 0.5
                assert kernel.std().item() == pytest.approx(expected, rel=0.1)

    @pytest.mark.parametrize("attention", ["SE", "CBAM", "ECA"])
    def test_zero_init_residual_means_the_norm_and_not_the_attention(self, attention):
        network = build("resnet", attention)
        network.init_weights()
        for end in attended(network).values():
            assert not end.norm.weight.any()
            assert all(p.any() for p in end.attention.parameters())

    @every_network
    @pytest.mark.parametrize("attention", ["SE", "CBAM", "ECA"])
    def test_leaves_the_norms_at_one(self, name, attention):
        options = dict(zero_init_residual=False) if name == "resnet" else {}
        network = build(name, attention, **options)
        network.init_weights()
        for end in attended(network).values():
            assert (end.norm.weight == 1).all()


FPN = dict(type="FPN", in_channels=[32, 64], out_channels=64, num_outs=3)
RETINA_HEAD = dict(
    type="RetinaHead",
    num_classes=3,
    in_channels=64,
    feat_channels=64,
    stacked_convs=2,
    anchor_generator=dict(
        type="AnchorGenerator",
        octave_base_scale=4,
        scales_per_octave=1,
        ratios=[1.0],
        strides=[8, 16, 32],
    ),
    bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    loss_cls=dict(type="FocalLoss", use_sigmoid=True),
    loss_bbox=dict(type="L1Loss"),
)
TRAIN_CFG = dict(
    assigner=dict(
        type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0
    ),
    sampler=dict(type="PseudoSampler"),
    allowed_border=-1,
    pos_weight=-1,
    debug=False,
)


def part(cfg, layer="ODConv2d", where=None, **options):
    return dict(
        type="Dynamic", part=cfg, dynamic=dict(type=layer, **options), where=where
    )


class TestParts:
    """``type='Dynamic'``: a neck, a head, another backbone."""

    @pytest.mark.parametrize("layer", [c.__name__ for c in DYNAMIC_CONVOLUTIONS])
    def test_a_neck(self, layer):
        neck = MODELS.build(part(FPN, layer))
        assert type(neck).__name__ == "FPN"
        assert len(dynamic(neck)) == 4
        assert all(m.bias is not None for m in dynamic(neck).values())
        neck.init_weights()
        maps = neck.train()([torch.rand(2, 32, 16, 16), torch.rand(2, 64, 8, 8)])
        assert [y.shape[1:] for y in maps] == [(64, s, s) for s in (16, 8, 4)]
        sum(y.square().mean() for y in maps).backward()
        assert_gradients(neck)

    def test_a_head_keeps_its_conv_modules(self):
        head = MODELS.build(
            part(RETINA_HEAD, where=dict(names=r"(cls|reg)_convs.*"), kernel_num=2)
        )
        assert len(dynamic(head)) == 4
        assert type(head.retina_cls) is nn.Conv2d
        head.init_weights()
        scores, boxes = head([torch.rand(2, 64, 8, 8)] * 3)
        assert [y.shape[1] for y in (scores[0], boxes[0])] == [3, 4]

    def test_where_says_which(self):
        neck = MODELS.build(part(FPN, where=dict(kernel_sizes=(3,))))
        assert list(dynamic(neck)) == ["fpn_convs.0.conv", "fpn_convs.1.conv"]

    def test_another_backbone(self):
        cfg = dict(type="ResNeXt", depth=50, groups=4, base_width=4, base_channels=16)
        network = MODELS.build(part(cfg, where=dict(stages=(4,), kernel_sizes=(3,))))
        assert list(dynamic(network)) == [f"layer4.{i}.conv2" for i in range(3)]
        assert all(m.groups == 4 for m in dynamic(network).values())
        network.eval()
        network(pictures(1, 64))

    def test_that_chooses_nothing_is_an_error(self):
        with pytest.raises(ValueError, match="no convolution"):
            MODELS.build(part(FPN, where=dict(kernel_sizes=(5,))))

    def test_stages_are_for_networks_that_have_them(self):
        with pytest.raises(ValueError, match="choose by names or kernel_sizes"):
            MODELS.build(part(FPN, where=dict(stages=(1,))))

    def test_the_config_is_left_as_it_was(self):
        cfg = part(RETINA_HEAD, where=dict(names="cls_convs.*"))
        before = copy.deepcopy(cfg)
        MODELS.build(cfg)
        assert cfg == before
        assert dynamic(MODELS.build(ConfigDict(cfg)))

    def test_the_batch_norms_behind_are_folded(self):
        cfg = dict(**FPN, norm_cfg=dict(type="BN"), act_cfg=None)
        neck = MODELS.build(part(cfg))
        assert all(m.fold is not None for m in dynamic(neck).values())


def detector(layer):
    """RetinaNet, dynamic from the first block to the last convolution of the head."""
    torch.manual_seed(0)
    init_default_scope("mmdet")
    anywhere = dict(names=r"(cls|reg)_convs.*")
    model = MODELS.build(
        dict(
            type="RetinaNet",
            data_preprocessor=dict(type="DetDataPreprocessor"),
            backbone=dict(
                type="DynamicResNet",
                depth=18,
                base_channels=16,
                out_indices=(1, 2),
                dynamic=dict(type=layer),
                frozen_stages=1,
            ),
            neck=part(FPN, layer),
            bbox_head=part(dict(RETINA_HEAD, train_cfg=TRAIN_CFG), layer, anywhere),
            train_cfg=TRAIN_CFG,
            test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.05, max_per_img=9)
            | dict(nms=dict(type="nms", iou_threshold=0.5)),
        )
    )
    model.init_weights()
    return model


def labelled(size=96):
    sample = DetDataSample(
        metainfo=dict(img_shape=(size, size), pad_shape=(size, size))
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 90.0, 80.0]]),
        labels=torch.tensor([0, 2]),
    )
    return sample


@pytest.mark.parametrize("layer", [c.__name__ for c in DYNAMIC_CONVOLUTIONS])
def test_a_whole_detector_trains(layer):
    model = detector(layer).train()
    kinds = {type(m).__name__ for m in dynamic(model).values()}
    assert kinds == {layer}
    parts = {name.split(".")[0] for name in dynamic(model)}
    assert parts == {"backbone", "neck", "bbox_head"}
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3
    )
    images, samples = pictures(2, 96), [labelled(), labelled()]
    losses = model.loss(images, samples)
    total = sum(sum(values) for values in losses.values())
    assert total.isfinite()
    total.backward()
    assert_gradients(model)
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimizer.step()
    banks = [n for n in before if n.endswith("cls_convs.0.conv.weight")]
    assert banks
    after = dict(model.named_parameters())
    assert all(not torch.equal(before[n], after[n]) for n in banks)


def test_dynamic_layers_of_two_kinds_in_one_network():
    """The general mechanism once more, on a network that it made dynamic before."""
    network = build(
        "resnet", None, dynamic=dict(type="ODConv2d"), where=dict(stages=(4,))
    )
    assert {type(m) for m in dynamic(network).values()} == {ODConv2d}
    cfg = dict(type="DynamicResNet", depth=18, base_channels=16)
    cfg |= dict(dynamic=dict(type="ODConv2d"), where=dict(stages=(4,)))
    network = MODELS.build(part(cfg, "DyConv2d", dict(stages=(1, 2, 3))))
    kinds = {name[:6]: type(m) for name, m in dynamic(network).items()}
    assert kinds == {
        f"layer{i}": ODConv2d if i == 4 else DyConv2d for i in (1, 2, 3, 4)
    }
    loss(network.train(), pictures(2, 64)).backward()
    assert_gradients(network)


PART = dict(type="ResNet", depth=18, base_channels=16)


class TestPartsWithWeights:
    def build(self, path):
        init = dict(type="Pretrained", checkpoint=str(path))
        dynamic = dict(type="DyConv2d", kernel_num=2)
        where = dict(stages=(3, 4))
        part = PART | dict(init_cfg=init, frozen_stages=4)
        return MODELS.build(
            dict(type="Dynamic", part=part, dynamic=dynamic, where=where)
        )

    def test_static_weights_are_the_start(self, tmp_path):
        torch.manual_seed(0)
        static = ResNet(18, base_channels=16)
        torch.save(static.state_dict(), tmp_path / "static.pth")
        network = self.build(tmp_path / "static.pth")
        assert isinstance(network, ResNet)
        network.init_weights()
        static.eval()
        network.eval()
        x = torch.randn(1, 3, 64, 64)
        for ours, theirs in zip(network(x), static(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    def test_a_file_of_another_network_and_a_missing_one_raise(self, tmp_path):
        torch.save(ResNet(34, base_channels=16).state_dict(), tmp_path / "other.pth")
        for name, message in (
            ("other.pth", "depth=34"),
            ("gone.pth", "no weight file"),
        ):
            with pytest.raises(CheckpointError, match=message):
                self.build(tmp_path / name).init_weights()

    def test_frozen_stages_are_frozen_at_once(self, tmp_path):
        network = self.build(tmp_path / "gone.pth")
        assert not any(p.requires_grad for p in network.parameters())


def test_a_part_starts_as_its_static_form_would():
    head = dict(type="RetinaHead", num_classes=2, in_channels=16, feat_channels=16)
    layer = dict(type="ODConv2d", kernel_num=2)
    part = MODELS.build(dict(type="Dynamic", part=head, dynamic=layer))
    assert isinstance(part.retina_cls, ODConv2d)
    torch.manual_seed(3)
    part.init_weights()
    torch.manual_seed(3)
    static = MODELS.build(head)
    static.init_weights()
    assert part.retina_cls.bias.mean().item() == pytest.approx(-4.595, abs=1e-2)
    maps = [torch.randn(1, 16, 12, 12)]
    for ours, theirs in zip(part(maps), static(maps), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", ["DyConv2d", {}, dict(kernel_num=4)])
def test_a_layer_that_is_no_dict_with_a_type_is_named(wrong):
    with pytest.raises(ValueError, match="dynamic must be a dict"):
        DynamicResNet(18, dynamic=wrong)
    with pytest.raises(ValueError, match="feature_attention must be a dict"):
        DynamicResNet(18, feature_attention=wrong)
