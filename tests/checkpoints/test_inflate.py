"""A dynamic network that starts as its static twin."""

import copy
import functools
import math

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d, attend, swap
from odconv_det.checkpoints import (
    CheckpointError,
    inflate,
    largest_difference,
    static_twin,
)
from odconv_det.layers import (
    SE,
    AttendedNorm,
    CondConv2d,
    DyConv2d,
    DynamicConv2d,
    WEConv2d,
)
from odconv_det.plugin.backbones import DynamicMobileNetV2
from tests.calibrated import calibrate, pictures
from tests.lookalike import LookalikeResNet
from tests.plugin.test_dynamic import build, every_kind, every_network


def static():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 4, 1),
    )
    net[1].running_mean.normal_()
    return net.eval()


def dynamic(**options):
    net = static()
    swap(net, lambda name, conv: name != "0", ODConv2d, **options)
    return net.eval()


@pytest.mark.parametrize("kernel_num", [1, 4])
def test_computes_what_the_static_network_computes(kernel_num):
    source, target = static(), dynamic(kernel_num=kernel_num)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    state = inflate(source.state_dict(), target)
    assert all(torch.equal(before[k], t) for k, t in target.state_dict().items())
    target.load_state_dict(state)
    x = torch.randn(2, 3, 9, 7)
    torch.testing.assert_close(target(x), source(x), rtol=1e-5, atol=1e-6)
    if kernel_num > 1:
        first, second = target[3].weight[:2]
        assert not torch.allclose(first, second)


def test_is_repeatable():
    one = inflate(static().state_dict(), dynamic(), seed=1)
    other = inflate(static().state_dict(), dynamic(), seed=1)
    assert torch.equal(one["3.weight"], other["3.weight"])
    assert not torch.equal(
        one["3.weight"], inflate(static().state_dict(), dynamic(), seed=2)["3.weight"]
    )


def test_names_tensors_that_do_not_fit():
    state = static().state_dict()
    state["9.weight"] = state.pop("4.weight")
    with pytest.raises(CheckpointError, match=r"missing \(4.weight\).*unexpected \(9"):
        inflate(state, dynamic())


# Whole networks -----------------------------------------------------------------------


@functools.cache
def static_network(name):
    """MMDetection's own, with weights and statistics as of a trained one."""
    return calibrate(build(name, None))


def static_weights(name):
    return {k: t.clone() for k, t in static_network(name).state_dict().items()}


@torch.no_grad()
def largest_error(network, expected):
    """Of any map, relative to its largest value."""
    network, expected = copy.deepcopy(network).eval(), copy.deepcopy(expected).eval()
    x = pictures(2, 64).to(next(expected.parameters()).dtype)
    maps, others = network(x), expected(x)
    if isinstance(maps, torch.Tensor):
        maps, others = [maps], [others]
    errors = [
        (y - z).abs().max() / z.abs().max() for y, z in zip(maps, others, strict=True)
    ]
    return torch.stack(errors).max().item()


def inflated(weights, network, **options):
    network.load_state_dict(inflate(weights, network, **options))
    return network.eval()


@every_network
@every_kind
def test_a_whole_network_starts_as_its_static_twin(name, kind):
    weights, network = static_weights(name), build(name, kind)
    twin = static_twin(weights, network)
    kinds = (DynamicConv2d, AttendedNorm)
    assert not [m for m in twin.modules() if isinstance(m, kinds)]
    assert not any(m.training for m in twin.modules())
    network = inflated(weights, network)
    assert [m for m in network.modules() if isinstance(m, kinds)]
    if name == "resnet":
        assert largest_error(network, twin) <= 1e-5
        assert largest_error(twin, static_network(name)) <= 1e-6
    # MobileNetV2's last map multiplies the rounding of float32 by more than that.
    assert largest_error(network.double(), twin.double()) <= 1e-5
    # The start of training, where the norms work by themselves.
    network.train()
    for y in network.float()(pictures(2, 64)):
        assert y.isfinite().all()


def with_classifier(weights, name="fc"):
    return {
        **weights,
        f"{name}.weight": torch.zeros(9, 4),
        f"{name}.bias": torch.ones(9),
    }


def without_counters(weights):
    return {k: t for k, t in weights.items() if "num_batches_tracked" not in k}


def prefixed(weights, prefix):
    return {f"{prefix}{key}": tensor for key, tensor in weights.items()}


def of_a_detector(weights):
    return {
        **prefixed(weights, "backbone."),
        "neck.fpn_convs.0.conv.weight": torch.zeros(1),
        "roi_head.bbox_head.fc_cls.weight": torch.zeros(1),
    }


def torchvisions(weights, flat=False):
    """MobileNetV2 under torchvision's names: features counted one by one."""
    blocks = [
        f"layer{layer}.{number}"
        for layer, count in enumerate((1, 2, 3, 4, 3, 3, 1), start=1)
        for number in range(count)
    ]
    names = {"conv1.conv": "features.0.0", "conv1.bn": "features.0.1"}
    names |= {"conv2.conv": "features.18.0", "conv2.bn": "features.18.1"}
    for feature, block in enumerate(blocks, start=1):
        places = ["0", "1", "3", "4", "6", "7"]
        parts = ["expand_conv", "depthwise_conv", "linear_conv"]
        if not flat:
            places = ["0.0", "0.1", "1.0", "1.1", "2", "3"]
        if feature == 1:
            parts = parts[1:]
            places = ["0", "1", "3", "4"] if flat else ["0.0", "0.1", "1", "2"]
        inside = [f"{part}.{kind}" for part in parts for kind in ("conv", "bn")]
        for own, place in zip(inside, places, strict=True):
            names[f"{block}.{own}"] = f"features.{feature}.conv.{place}"
    renamed = {}
    for key, tensor in weights.items():
        parent, _, kind = key.rpartition(".")
        renamed[f"{names[parent]}.{kind}"] = tensor
    return with_classifier(renamed, "classifier.1")


SOURCES = {
    "mmdet": ("resnet", lambda w: w),
    "torchvision": ("resnet", with_classifier),
    "old torchvision": ("resnet", lambda w: without_counters(with_classifier(w))),
    "DataParallel": ("resnet", lambda w: prefixed(with_classifier(w), "module.")),
    "detector": ("resnet", of_a_detector),
    "detector in DataParallel": (
        "resnet",
        lambda w: prefixed(of_a_detector(w), "module."),
    ),
    "mmdet mobilenet": ("mobilenet", lambda w: w),
    "torchvision mobilenet": ("mobilenet", torchvisions),
    "old torchvision mobilenet": (
        "mobilenet",
        lambda w: without_counters(torchvisions(w)),
    ),
    "DataParallel mobilenet": (
        "mobilenet",
        lambda w: prefixed(torchvisions(w), "module."),
    ),
    "flat mobilenet": ("mobilenet", lambda w: torchvisions(w, flat=True)),
    "detector with mobilenet": (
        "mobilenet",
        lambda w: of_a_detector(torchvisions(w, flat=True)),
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_reads_every_layout(source):
    name, rename = SOURCES[source]
    weights = static_weights(name)
    given = rename(weights)
    expected = inflate(weights, build(name, "CondConv2d and SE"))
    state = inflate(given, build(name, "CondConv2d and SE"))
    counters = {k for k in state if k.endswith("num_batches_tracked")}
    kept = counters if any("num_batches_tracked" in k for k in given) else set()
    assert counters
    for key, tensor in state.items():
        if key not in counters or key in kept:
            assert torch.equal(tensor, expected[key]), key
    assert set(given) == set(rename(weights))  # the file's dict stays as it was


def test_the_network_given_stays_as_it_is():
    network = build("resnet", "CondConv2d and SE").train()
    before = {k: t.clone() for k, t in network.state_dict().items()}
    weights = static_weights("resnet")
    inflate(weights, network)
    static_twin(weights, network)
    state = network.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in before.items())
    assert all(m.training for m in network.modules() if isinstance(m, DynamicConv2d))
    assert isinstance(network.layer1[0].norm2, AttendedNorm)


def test_the_weights_given_stay_as_they_are():
    weights = static_weights("resnet")
    state = inflate(weights, build("resnet", "SE"))
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.add_(1)
    expected = static_network("resnet").state_dict()
    assert all(torch.equal(weights[k], tensor) for k, tensor in expected.items())


class TestNoise:
    def banks(self, **options):
        state = inflate(
            static_weights("resnet"), build("resnet", "DyConv2d"), **options
        )
        return {key: t for key, t in state.items() if t.dim() == 5}

    def test_tells_the_kernels_of_every_bank_apart(self):
        static = static_weights("resnet")
        for key, bank in self.banks(noise=0.1).items():
            pairs = [(i, j) for i in range(len(bank)) for j in range(i)]
            assert all(not torch.allclose(bank[i], bank[j]) for i, j in pairs)
            torch.testing.assert_close(bank.mean(0), static[key])
            # Relative to the static kernel, less what the mean takes away.
            spread = (bank - static[key]).std() / static[key].std(correction=0)
            assert spread.item() == pytest.approx(0.1 * 0.75**0.5, rel=0.1)

    def test_is_there_by_default(self):
        assert all(not torch.equal(b[0], b[1]) for b in self.banks().values())

    def test_of_zero_leaves_equal_kernels(self):
        banks = self.banks(noise=0)
        assert banks
        for bank in banks.values():
            assert all(torch.equal(bank[0], kernel) for kernel in bank)

    def test_is_that_of_its_seed(self):
        one, same, other = (self.banks(seed=seed) for seed in (3, 3, 4))
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert not any(torch.equal(one[key], other[key]) for key in one)

    def test_does_not_touch_torchs_own_generator(self):
        torch.manual_seed(0)
        expected = torch.rand(1)
        weights, network = static_weights("resnet"), build("resnet", "DyConv2d")
        torch.manual_seed(0)
        inflate(weights, network)
        assert torch.equal(torch.rand(1), expected)

    def test_differs_from_bank_to_bank(self):
        banks = list(self.banks().values())
        same = [b for b in banks if b.shape == banks[0].shape]
        spreads = [(b - b.mean(0)) / b.std() for b in same]
        assert not torch.allclose(spreads[0], spreads[1], atol=0.1)


class TestErrors:
    def test_of_another_width(self):
        weights = DynamicMobileNetV2(0.5).state_dict()
        for function in (inflate, static_twin):
            with pytest.raises(CheckpointError) as caught:
                function(weights, build("mobilenet", "DyConv2d"))
            message = str(caught.value)
            assert "the static weights do not fit" in message
            assert "widen_factor=0.5, this network has widen_factor=0.25" in message
            assert "\n" not in message

    def test_of_another_network(self):
        with pytest.raises(
            CheckpointError, match="network=ResNet.*network=MobileNetV2"
        ):
            inflate(static_weights("resnet"), build("mobilenet", "DyConv2d"))

    def test_without_a_block(self):
        weights = {
            key: tensor
            for key, tensor in static_weights("resnet").items()
            if not key.startswith("layer4.1.")
        }
        with pytest.raises(CheckpointError, match=r"missing \(layer4\.1\."):
            inflate(weights, build("resnet", "DyConv2d"))

    @pytest.mark.parametrize(
        "key", ["layer2.0.conv1.weight", "layer2.0.bn2.bias", "conv1.weight"]
    )
    def test_one_missing_tensor(self, key):
        weights = static_weights("resnet")
        del weights[key]
        with pytest.raises(CheckpointError, match=rf"1 missing \({key}\)"):
            inflate(weights, build("resnet", "CondConv2d and SE"))

    def test_one_tensor_too_many(self):
        weights = static_weights("resnet")
        weights["layer1.0.conv1.bias"] = torch.zeros(16)
        with pytest.raises(CheckpointError, match=r"1 unexpected \(layer1\.0\.conv1"):
            inflate(weights, build("resnet", "DyConv2d"))

    def test_a_dynamic_file(self):
        network = build("resnet", "DyConv2d")
        with pytest.raises(CheckpointError, match="of a dynamic network: load them"):
            inflate(network.state_dict(), network)

    def test_a_layer_that_has_no_such_start(self):
        net = LookalikeResNet()
        weights = net.state_dict()
        swap(net, {}, WEConv2d, magnitude=True)
        with pytest.raises(ValueError, match="magnitude=True"):
            inflate(weights, net)

    def test_an_empty_file(self):
        with pytest.raises(CheckpointError, match="missing"):
            inflate({}, build("resnet", "DyConv2d"))


class TestOtherLibraries:
    """A network with its own names, a classifier among them."""

    def pair(self, layer=CondConv2d):
        torch.manual_seed(0)
        source = calibrate(LookalikeResNet())
        net = copy.deepcopy(source)
        swap(net, dict(shortcuts=True), layer)
        attend(net, SE)
        return source, net

    @pytest.mark.parametrize("rename", [dict, without_counters])
    def test_starts_as_its_static_twin(self, rename):
        source, net = self.pair()
        for parameter in net.fc.parameters():
            nn.init.zeros_(parameter)
        weights = rename(source.state_dict())
        twin = static_twin(weights, net)
        net = inflated(weights, net)
        assert largest_error(net, source) <= 1e-5
        assert largest_error(twin, source) <= 1e-6
        assert torch.equal(net.fc.weight, source.fc.weight)

    def test_as_data_parallel_saves_it(self):
        source, net = self.pair()
        net = inflated(prefixed(source.state_dict(), "module."), net)
        assert largest_error(net, source) <= 1e-5

    def test_keeps_the_biases_of_convolutions(self):
        source = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3))
        net = copy.deepcopy(source)
        swap(net, {}, DyConv2d)
        net = inflated(source.state_dict(), net)
        assert torch.equal(net[1].bias, source[1].bias)
        assert largest_error(net, source) <= 1e-5

    def test_in_double_precision(self):
        source, net = self.pair()
        source, net = source.double(), net.double()
        weights = source.state_dict()
        twin = static_twin(weights, net)
        assert {p.dtype for p in twin.parameters()} == {torch.float64}
        assert largest_error(twin, source) <= 1e-12
        assert largest_error(inflated(weights, net), source) <= 1e-12

    def test_a_block_that_has_two_places(self):
        """It is inflated once."""
        torch.manual_seed(0)
        block = LookalikeResNet().layer1[0]
        source = nn.ModuleDict({"layer1": nn.Sequential(block, block)}).eval()
        net = copy.deepcopy(source)
        swap(net, {}, DyConv2d)
        attend(net, SE)
        weights = source.state_dict()
        net = inflated(weights, net)
        x = torch.randn(2, 16, 8, 8)
        expected = source["layer1"](x)
        torch.testing.assert_close(net["layer1"](x), expected, rtol=1e-4, atol=1e-5)
        twin = static_twin(weights, net)
        torch.testing.assert_close(twin["layer1"](x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_is_a_size(noise):
    net = LookalikeResNet()
    with pytest.raises(ValueError, match="noise must be at least 0 and finite"):
        inflate(net.state_dict(), net, noise=noise)


def test_the_largest_difference_does_not_pass_over_nan():
    def maps(*values):
        return lambda x: [torch.tensor([1.0, value]) for value in values]

    images = torch.zeros(1)
    assert largest_difference(maps(1.0, 2.0), maps(1.0, 2.5), images) == 0.25
    for values in ((float("nan"), 1.0), (1.0, float("nan"))):
        assert math.isnan(largest_difference(maps(1.0, 1.0), maps(*values), images))
