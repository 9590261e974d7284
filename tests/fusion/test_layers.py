"""Every kind of dynamic layer, fused and folded: the same function, fewer steps."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det import fold_batch_norms, fuse, set_temperature, unfold_batch_norms
from odconv_det.folding import Fold
from odconv_det.fusion.layout import LAYOUTS
from odconv_det.fusion.modules import FusedConv2d, FusedDynamicConv2d
from odconv_det.layers import CBAM, ECA, FEATURE_ATTENTIONS, SE, DynamicConv2d, WEConv2d
from odconv_det.layers.base import TemperedAttention
from odconv_det.layers.pointwise import Pointwise
from tests.calibrated import pictures
from tests.layers.blocks import network
from tests.layers.cases import VARIANTS

# The stem and a shortcut in every block that changes the number of channels.
STATIC = 3
DYNAMIC = 10
# Of a weighted sum of a bank, of a static kernel, and the others, which stay.
BANKS = [name for name, variant in VARIANTS.items() if variant.layer.mixes_a_bank]
EXCITED = [name for name, variant in VARIANTS.items() if variant.layer is WEConv2d]
OTHERS = [name for name in VARIANTS if name not in (*BANKS, *EXCITED)]

each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_attention = pytest.mark.parametrize("attend", FEATURE_ATTENTIONS)


@functools.cache
def _built(variant, attend):
    return network(variant, attend=attend)


def built(variant, attend=None):
    return copy.deepcopy(_built(variant, attend))


@torch.no_grad()
def maps(net, x):
    return net(x)


def assert_close(ys, expected, tolerance):
    assert len(ys) == len(expected) > 0
    for y, reference in zip(ys, expected, strict=True):
        assert y.shape == reference.shape
        assert y.dtype == reference.dtype
        if y.numel():
            assert (y - reference).abs().max() <= tolerance * reference.abs().max()


def count(net, kind):
    return sum(isinstance(module, kind) for module in net.modules())


class TestFuse:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @each_variant
    def test_equals_the_network_before(self, variant, layout):
        net = built(variant)
        inputs = [pictures(*size) for size in ((1, 20, 24), (3, 17, 9))]
        inputs.append(inputs[0][:0])
        expected = [maps(net, x) for x in inputs]
        assert expected[1][0].std() > 0.1
        fuse(net, layout=layout)
        for x, reference in zip(inputs, expected, strict=True):
            assert_close(maps(net, x), reference, 1e-4)

    @each_variant
    def test_in_float64_only_rounding_differs(self, variant):
        net, x = built(variant).double(), pictures(2, 20).double()
        expected = maps(net, x)
        assert_close(maps(fuse(net), x), expected, 1e-10)

    @pytest.mark.parametrize("temperature", [1.0, 3.0, 30.0])
    @pytest.mark.parametrize("variant", ["ODConv2d", "ODConv2d 1x", "DyConv2d"])
    def test_the_temperature_divides_weights_and_biases(self, variant, temperature):
        net, x = built(variant).double(), pictures(2, 20).double()
        biases = [
            head.bias
            for attention in net.modules()
            if isinstance(attention, TemperedAttention)
            for head in attention.modules()
            if isinstance(head, Pointwise) and head.bias is not None
        ]
        assert len(biases) >= DYNAMIC
        assert all(bias.abs().min() > 0 for bias in biases)
        warm = maps(net, x)
        assert set_temperature(net, temperature) == DYNAMIC
        expected = maps(net, x)
        for y, other in zip(expected, warm, strict=True):
            assert temperature == 1 or (y - other).abs().max() > 1e-3 * y.abs().max()
        assert_close(maps(fuse(net), x), expected, 1e-10)

    @each_variant
    def test_a_folded_network_can_be_fused(self, variant):
        net, x = built(variant), pictures(2, 20)
        expected = maps(net, x)
        assert len(fold_batch_norms(net)) == DYNAMIC
        assert_close(maps(fuse(net), x), expected, 1e-4)

    @pytest.mark.parametrize("variant", BANKS)
    def test_a_layer_with_a_bank_takes_its_norm_and_more(self, variant):
        net = fuse(built(variant))
        assert count(net, FusedDynamicConv2d) == DYNAMIC
        assert count(net, FusedConv2d) == STATIC
        for kind in (DynamicConv2d, nn.Conv2d, _BatchNorm):
            assert count(net, kind) == 0
        assert net.layer1[0].conv1.activation == "relu"
        assert net.layer1[0].conv3.joined
        assert net.conv2[0].activation == "relu6"

    @pytest.mark.parametrize("variant", EXCITED)
    def test_weight_excitation_is_a_static_convolution(self, variant):
        net = fuse(built(variant))
        assert count(net, FusedConv2d) == DYNAMIC + STATIC
        for kind in (FusedDynamicConv2d, DynamicConv2d, nn.Conv2d, _BatchNorm):
            assert count(net, kind) == 0
        assert net.layer1[0].conv3.joined
        assert not [name for name in net.state_dict() if "attention" in name]

    @pytest.mark.parametrize("variant", OTHERS)
    def test_a_layer_that_mixes_no_bank_stays(self, variant):
        net = fuse(built(variant))
        assert count(net, DynamicConv2d) == DYNAMIC
        assert count(net, FusedDynamicConv2d) == 0
        assert count(net, FusedConv2d) == STATIC

    @pytest.mark.parametrize(
        "variant, attend",
        [
            *((variant, None) for variant in VARIANTS),
            *((None, attend) for attend in FEATURE_ATTENTIONS),
        ],
    )
    def test_nothing_asks_for_a_gradient(self, variant, attend):
        net = fuse(built(variant, attend))
        assert [name for name, p in net.named_parameters() if p.requires_grad] == []
        assert not any(y.requires_grad for y in net(pictures(1, 20)))

    @each_variant
    def test_a_deep_copy_computes_the_same_by_itself(self, variant):
        net, x = fuse(built(variant)), pictures(2, 20)
        clone, expected = copy.deepcopy(net), maps(net, x)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        assert all(map(torch.equal, maps(clone, x), expected))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @each_variant
    def test_autocast_rounds_no_worse_than_before(self, variant, dtype):
        net, x = built(variant), pictures(2, 20)
        exact = maps(net, x)
        with torch.autocast("cpu", dtype=dtype):
            plain = maps(net, x)
            found = maps(fuse(net), x)
        for y, reference, truth in zip(found, plain, exact, strict=True):
            assert y.dtype == reference.dtype
            rounding = (reference.float() - truth).square().mean().sqrt()
            assert rounding > 0
            assert (y.float() - truth).square().mean().sqrt() <= 1.5 * rounding

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("variant", [None, "ODConv2d", "CondConv2d", "CGConv2d"])
    @each_attention
    def test_feature_attention_stays_behind_its_norm(self, attend, variant, layout):
        net, x = built(variant, attend), pictures(2, 20)
        expected = maps(net, x)
        fuse(net, layout=layout)
        assert_close(maps(net, x), expected, 1e-4)
        assert count(net, attend) == 3

    @pytest.mark.parametrize("variant", [None, "ODConv2d", "CondConv2d", "WEConv2d"])
    @each_attention
    def test_the_norm_before_feature_attention_joins_its_layer(self, attend, variant):
        net = fuse(built(variant, attend))
        for kind in (DynamicConv2d, nn.Conv2d, _BatchNorm):
            assert count(net, kind) == 0


def result(net, x):
    """Outputs and the gradients of everything that has one."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    ys = net(x)
    generator = torch.Generator().manual_seed(2)
    grads = [torch.randn(y.shape, generator=generator).to(y) for y in ys]
    torch.autograd.backward(ys, grads)
    named = {name: p.grad for name, p in net.named_parameters()}
    return {**{f"y{i}": y.detach() for i, y in enumerate(ys)}, "x": x.grad, **named}


def assert_same(found, expected, tolerance):
    assert set(found) == set(expected)
    for name, reference in expected.items():
        error = (found[name] - reference).abs().max()
        assert error <= tolerance * reference.abs().max().clamp(min=1e-6), name


def freeze_norms(net):
    """In training mode but for the norms behind the layers: attentions train."""
    net.train()
    layers = [m for m in net.modules() if isinstance(m, DynamicConv2d)]
    within = {inner for layer in layers for inner in layer.modules()}
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module not in within:
            module.eval()


class TestFold:
    @pytest.mark.parametrize("mode", ["eval", "frozen norms"])
    @each_variant
    def test_equals_the_network_before_with_all_gradients(self, variant, mode):
        net = built(variant).double()
        if mode == "frozen norms":
            freeze_norms(net)
        plain, x = copy.deepcopy(net), pictures(3, 20).double()
        assert len(fold_batch_norms(net)) == DYNAMIC
        expected = result(plain, x)
        for norm in ("layer1.0.bn2", "layer1.2.bn3", "conv2.1"):
            assert expected[f"{norm}.weight"].abs().max() > 0
            assert expected[f"{norm}.bias"].abs().max() > 0
        assert_same(result(net, x), expected, 1e-9)

    @each_variant
    def test_the_layer_applies_the_norm_and_the_norm_nothing(self, variant):
        net = built(variant).double()
        fold_batch_norms(net)
        norm = net.layer1[0].bn2
        x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
        assert isinstance(net.layer1[0].conv2.fold, Fold)
        assert norm(x) is x
        norm.train()
        assert norm(x) is not x

    @each_variant
    def test_in_training_mode_each_works_by_itself(self, variant):
        net = built(variant).double().train()
        plain, x = copy.deepcopy(net), pictures(3, 20).double()
        fold_batch_norms(net)
        assert_same(result(net, x), result(plain, x), 1e-9)

    @each_variant
    def test_unfolding_undoes_it(self, variant):
        net, x = built(variant), pictures(2, 20)
        expected = maps(net, x)
        fold_batch_norms(net)
        unfold_batch_norms(net)
        assert all(map(torch.equal, maps(net, x), expected))

    @each_attention
    def test_the_norm_before_feature_attention_works_as_ever(self, attend):
        net, x = built("ODConv2d", attend).double(), pictures(2, 20).double()
        plain = copy.deepcopy(net)
        folded = fold_batch_norms(net)
        assert set(folded) >= {"layer1.0.conv1", "layer1.0.conv2", "conv2.0"}
        assert_same(result(net, x), result(plain, x), 1e-9)

    @each_variant
    def test_autocast_stays_as_close_as_unfolded(self, variant):
        net, x = built(variant), pictures(2, 20)
        expected = maps(net, x)

        def distance():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                ys = maps(net, x)
            pairs = zip(ys, expected, strict=True)
            return max((y.float() - z).abs().max() / z.abs().max() for y, z in pairs)

        unfolded = distance()
        fold_batch_norms(net)
        assert 0 < distance() < 1.5 * unfolded + 0.01


def test_every_way_of_fusing_is_tested():
    assert BANKS
    assert EXCITED
    assert OTHERS
    assert set(FEATURE_ATTENTIONS) == {SE, CBAM, ECA}
