"""fuse(): the same function in fewer steps, for the backbones of this package."""

import copy
import functools
import warnings

import pytest
import torch
from mmdet.models.backbones import MobileNetV2, ResNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune

from odconv_det import ODConv2d
from odconv_det.core.dispatch import choose, force
from odconv_det.fusion import convolution, fuse, modules
from odconv_det.fusion.layout import LAYOUTS
from odconv_det.fusion.modules import Fused, FusedConv2d, FusedDynamicConv2d
from odconv_det.plugin.backbones import ODMobileNetV2, ODResNet
from tests.calibrated import calibrate, pictures

BACKBONES = {
    "static resnet": lambda: ResNet(18, base_channels=16),
    "resnet 1x": lambda: ODResNet(18, base_channels=16, kernel_num=1),
    "resnet 4x": lambda: ODResNet(18, base_channels=16, kernel_num=4),
    "bottlenecks 1x": lambda: ODResNet(50, base_channels=8, kernel_num=1),
    "static mobilenet": lambda: MobileNetV2(0.25),
    "mobilenet 1x": lambda: ODMobileNetV2(0.25, kernel_num=1),
    "mobilenet 4x": lambda: ODMobileNetV2(0.25, kernel_num=4),
}
SAMPLE = ["static resnet", "resnet 4x", "mobilenet 4x"]


@functools.cache
def _built(name):
    torch.manual_seed(0)
    return calibrate(BACKBONES[name](), 96)


def unfused(name):
    return copy.deepcopy(_built(name))


@functools.cache
def _fused(name, layout):
    return fuse(unfused(name), layout=layout)


def fused(name, layout="auto"):
    """Shared: not to be changed."""
    return _fused(name, layout)


@torch.no_grad()
def maps(network, x):
    return network(x)


def assert_close(ys, expected, tolerance=1e-4):
    assert len(ys) == len(expected) > 0
    for y, reference in zip(ys, expected, strict=True):
        assert y.shape == reference.shape
        assert y.dtype == reference.dtype
        if y.numel():
            error = (y.double() - reference.double()).abs().max()
            assert error <= tolerance * reference.double().abs().max()


def assert_no_worse(ys, plain, exact):
    """In half precision: the fused network's maps, the unfused one's, the true ones."""
    assert len(ys) == len(plain) == len(exact) > 0
    for y, reference, truth in zip(ys, plain, exact, strict=True):
        assert y.dtype == reference.dtype != truth.dtype
        rounding = (reference.float() - truth).square().mean().sqrt()
        assert rounding > 0
        assert (y.float() - truth).square().mean().sqrt() <= 1.5 * rounding


def count(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())


class TestFunction:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", BACKBONES)
    def test_equals_the_network_before(self, name, layout):
        network = fused(name, layout)
        for batch, height, width in ((1, 64, 96), (3, 71, 45), (0, 64, 64)):
            x = pictures(max(batch, 1), height, width)[:batch]
            assert_close(maps(network, x), maps(unfused(name), x))

    @pytest.mark.parametrize("name", BACKBONES)
    def test_the_maps_of_a_calibrated_network_are_worth_comparing(self, name):
        for y in maps(unfused(name), pictures(3, 64, 96)):
            assert y.std() > 0.1
            assert (y[0] - y[1]).abs().max() > 0.1 * y.abs().max()

    @pytest.mark.parametrize("name", SAMPLE)
    def test_takes_either_layout_of_the_input(self, name):
        x = pictures(2, 64)
        expected = maps(unfused(name), x)
        for layout in (torch.contiguous_format, torch.channels_last):
            assert_close(maps(fused(name), x.to(memory_format=layout)), expected)
        gaps = torch.stack([x, x], -1)[..., 0]
        assert_close(maps(fused(name), gaps), expected)

    @pytest.mark.parametrize("name", BACKBONES)
    def test_in_float64_only_rounding_differs(self, name):
        x = pictures(2, 64).double()
        expected = maps(unfused(name).double(), x)
        assert_close(maps(fuse(unfused(name).double()), x), expected, 1e-10)

    @pytest.mark.parametrize("convert", ["before", "after"])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("name", SAMPLE)
    def test_half_precision_rounds_no_worse_than_before(self, name, dtype, convert):
        x = pictures(2, 64)
        half = unfused(name).to(dtype)
        plain = maps(half, x.to(dtype))
        network = fuse(half) if convert == "before" else copy.deepcopy(fused(name))
        assert_no_worse(
            maps(network.to(dtype), x.to(dtype)), plain, maps(unfused(name), x)
        )

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("name", SAMPLE)
    def test_autocast_rounds_no_worse_than_before(self, name, dtype):
        x = pictures(2, 64)
        with torch.autocast("cpu", dtype=dtype):
            ys, plain = maps(fused(name), x), maps(unfused(name), x)
        assert_no_worse(ys, plain, maps(unfused(name), x))

    @pytest.mark.parametrize("scale", ["kernel", "maps"])
    @pytest.mark.parametrize("convolve", ["slices", "grouped", "matmul", "shared"])
    @pytest.mark.parametrize("name", ["resnet 4x", "bottlenecks 1x", "mobilenet 4x"])
    def test_every_form_is_the_same_function(self, name, convolve, scale):
        x = pictures(2, 64)
        layout = "channels_last" if convolve in ("slices", "matmul") else "contiguous"
        with force(scale, convolve):
            ys = maps(fused(name, layout), x)
        assert_close(ys, maps(unfused(name), x))

    def test_force_is_heard_after_a_call_of_the_same_shape(self, monkeypatch):
        network, x = fuse(unfused("resnet 4x")), pictures(2, 64)
        maps(network, x)
        forms = []

        def spy(case):
            plan = choose(case)
            forms.append(plan.convolve)
            return plan

        monkeypatch.setattr(modules, "choose", spy)
        with force(convolve="grouped"):
            maps(network, x)
        assert set(forms) == {"grouped"}
        forms.clear()
        maps(network, x)
        assert forms
        assert "grouped" not in forms

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", SAMPLE)
    def test_is_the_same_where_torch_has_no_fused_call(self, name, layout, monkeypatch):
        monkeypatch.setattr(convolution, "one_call_works", lambda *_: False)
        for batch in (1, 3):
            x = pictures(batch, 71, 45)
            assert_close(maps(fused(name, layout), x), maps(unfused(name), x))


class TestMemory:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", BACKBONES)
    def test_no_map_is_overwritten_that_someone_still_needs(self, name, layout):
        """Every stage of a backbone is returned: each is somebody's shortcut, too."""
        network = unfused(name)
        network.out_indices = tuple(range(8 if "mobilenet" in name else 4))
        x = pictures(2, 64)
        expected = maps(network, x)
        assert len(expected) == len(network.out_indices)
        assert_close(maps(fuse(network, layout=layout), x), expected)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", SAMPLE)
    def test_a_second_run_gives_the_same_and_the_input_stays(self, name, layout):
        x = pictures(2, 64)
        x = x.to(memory_format=torch.channels_last) if layout != "contiguous" else x
        before = x.clone()
        first = maps(fused(name, layout), x)
        kept = [y.clone() for y in first]
        second = maps(fused(name, layout), x)
        assert torch.equal(x, before)
        assert all(map(torch.equal, first, second))
        assert all(map(torch.equal, first, kept))

    @pytest.mark.parametrize("name", SAMPLE)
    def test_runs_are_independent_of_each_other(self, name):
        network = fuse(unfused(name))
        sizes = [(1, 64, 64), (2, 64, 64), (2, 45, 71), (1, 64, 64)]
        images = [pictures(*size, seed=seed) for seed, size in enumerate(sizes)]
        for x in images:
            assert_close(maps(network, x), maps(unfused(name), x))


class TestStructure:
    @pytest.mark.parametrize("name", BACKBONES)
    def test_every_convolution_is_fused_and_every_norm_gone(self, name):
        before, network = unfused(name), fused(name)
        dynamic, static = count(before, ODConv2d), count(before, nn.Conv2d)
        assert count(network, FusedDynamicConv2d) == dynamic
        assert count(network, FusedConv2d) == static
        for kind in (ODConv2d, nn.Conv2d, _BatchNorm):
            assert count(network, kind) == 0

    @pytest.mark.parametrize(
        "name, joined",
        [("static resnet", 8), ("resnet 4x", 8), ("bottlenecks 1x", 16)],
    )
    def test_shortcuts_are_added_by_the_convolution(self, name, joined):
        targets = {type(fused(name).layer1[0].conv1)}
        assert targets <= {FusedConv2d, FusedDynamicConv2d}
        assert count(fused(name), nn.ReLU) > 0
        found = [m for m in fused(name).modules() if isinstance(m, Fused) and m.joined]
        assert len(found) == joined
        assert all(module.activation == "relu" for module in found)

    def test_shortcuts_of_mobilenet_are_added_by_the_convolution(self):
        network = fused("mobilenet 4x")
        found = [m for m in network.modules() if isinstance(m, Fused) and m.joined]
        blocks = [m for m in network.modules() if hasattr(m, "with_res_shortcut")]
        assert len(found) == sum(block.with_res_shortcut for block in blocks) >= 10
        assert all(module.activation == "none" for module in found)

    def test_keeps_class_attributes_and_methods(self):
        network = fused("resnet 4x")
        assert isinstance(network, ODResNet)
        assert isinstance(network, ResNet)
        assert network.out_indices == (0, 1, 2, 3)
        assert network.frozen_stages == -1
        assert network.eval() is network

    def test_returns_the_network_itself(self):
        network = unfused("resnet 1x")
        assert fuse(network) is network

    @pytest.mark.parametrize("name", SAMPLE)
    def test_nothing_asks_for_a_gradient(self, name):
        parameters = list(fused(name).parameters())
        assert parameters
        assert not any(p.requires_grad for p in parameters)
        x = pictures(1, 64).requires_grad_()
        assert not any(y.requires_grad for y in fused(name)(x))

    def test_nothing_is_in_training_mode(self):
        assert not [n for n, m in fused("mobilenet 4x").named_modules() if m.training]

    @pytest.mark.parametrize("name", SAMPLE)
    def test_a_deep_copy_computes_the_same_by_itself(self, name):
        network = fuse(unfused(name))
        clone = copy.deepcopy(network)
        x = pictures(2, 64)
        expected = maps(network, x)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        assert all(map(torch.equal, maps(clone, x), expected))

    @pytest.mark.parametrize("name", SAMPLE)
    def test_its_weights_can_be_saved_and_loaded(self, name):
        network, other = fused(name), unfused(name)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.5)
        fuse(other).load_state_dict(network.state_dict())
        x = pictures(2, 64)
        assert all(map(torch.equal, maps(other, x), maps(network, x)))

    def test_compiles(self):
        network, x = fused("resnet 4x"), pictures(1, 64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = torch.compile(network, backend="eager")
            assert_close(maps(compiled, x), maps(network, x))

    def test_shows_what_is_fused(self):
        text = repr(fused("resnet 4x").layer1[0].conv2)
        assert "FusedDynamicConv2d" in text
        assert "activation='relu'" in text


class TestWhatItRefuses:
    @pytest.mark.parametrize("name", SAMPLE)
    def test_a_network_in_training_mode(self, name):
        network = unfused(name)
        network.train()
        before = dict(network.named_modules())
        with pytest.raises(ValueError, match="training mode.*eval"):
            fuse(network)
        assert dict(network.named_modules()) == before

    def test_a_network_of_which_a_part_is_in_training_mode(self):
        network = unfused("static resnet")
        network.layer2[0].bn1.train()
        with pytest.raises(ValueError, match=r"layer2\.0\.bn1 is in training mode"):
            fuse(network)

    @pytest.mark.parametrize("layout", ["nhwc", None, ""])
    def test_an_unknown_layout(self, layout):
        with pytest.raises(ValueError, match=f"layout must be one of .*{layout!r}"):
            fuse(unfused("static resnet"), layout=layout)

    @pytest.mark.parametrize(
        "network",
        [
            nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
            nn.Sequential(),
            nn.Conv2d(3, 3, 1),
            ODConv2d(3, 3, 1),
            nn.ReLU(),
        ],
        ids=lambda network: type(network).__name__,
    )
    def test_a_network_without_a_convolution_to_fuse(self, network):
        with pytest.raises(ValueError, match="no convolution"):
            fuse(network.eval())

    def test_a_network_of_pruned_convolutions(self):
        """Only what keeps them as they are, their hooks, is in the way."""
        network = nn.Sequential(ODConv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
        convs = network[0], network[2]
        for conv in convs:
            prune.l1_unstructured(conv, "weight", 0.5)
        expected = network(x := torch.rand(1, 3, 8, 8))
        with pytest.raises(ValueError, match=r"hooks keep 0, 2.*prune\.remove"):
            fuse(network)
        for conv in convs:
            prune.remove(conv, "weight")
        torch.testing.assert_close(fuse(network)(x), expected)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
    @pytest.mark.parametrize("first", [ODConv2d, nn.Conv2d])
    def test_integers(self, first, dtype):
        network = fuse(nn.Sequential(first(3, 8, 3), nn.ReLU()).eval())
        with pytest.raises(RuntimeError, match=f"floating-point input, got {dtype}"):
            network(torch.ones(1, 3, 8, 8).to(dtype))

    def test_to_train_afterwards(self):
        network = fuse(unfused("resnet 4x"))
        expected = maps(network, x := pictures(1, 64))
        with pytest.raises(RuntimeError, match="fused network is for inference"):
            network.train()
        assert all(map(torch.equal, maps(network, x), expected))

    def test_to_fuse_twice(self):
        network = fuse(unfused("resnet 4x"))
        expected = maps(network, x := pictures(1, 64))
        with pytest.raises(ValueError, match="fused already"):
            fuse(network)
        assert all(map(torch.equal, maps(network, x), expected))
