"""The backbones equal the authors' networks, map for map."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from odconv_det import ODConv2d
from odconv_det.checkpoints import from_release
from odconv_det.plugin.backbones import ODMobileNetV2, ODResNet
from tests.golden_weights import golden_state
from tests.oracle import odconv2d_oracle

GOLDEN = Path(__file__).parents[1] / "golden"
RESNET_MAPS = [f"stage{i}" for i in range(4)]
MOBILENET_MAPS = [f"feature{i}" for i in (1, 3, 6, 13, 18)]


def mobilenet(**options):
    return ODMobileNetV2(out_indices=(0, 1, 2, 4, 7), **options)


NETWORKS = {
    "odresnet18_4x": (RESNET_MAPS, lambda: ODResNet(18, kernel_num=4)),
    "odresnet50_1x": (RESNET_MAPS, lambda: ODResNet(50, kernel_num=1)),
    "odresnet50_4x": (RESNET_MAPS, lambda: ODResNet(50, kernel_num=4)),
    "odmobilenetv2_100_1x": (MOBILENET_MAPS, lambda: mobilenet(kernel_num=1)),
    "odmobilenetv2_100_4x": (MOBILENET_MAPS, lambda: mobilenet(kernel_num=4)),
    "odmobilenetv2_050_4x": (
        MOBILENET_MAPS,
        lambda: mobilenet(kernel_num=4, widen_factor=0.5),
    ),
}
TOLERANCE = 2e-5  # of the map's largest value


def test_every_golden_network_is_compared():
    files = {path.name.removesuffix(".npz") for path in GOLDEN.glob("*.npz")}
    assert files == {*NETWORKS, "odconv2d_layer"}


@torch.no_grad()
def maps_of(network, dtype):
    x = np.random.RandomState(7).standard_normal((2, 3, 97, 131)).astype(np.float32)
    return [y.double() for y in network.to(dtype)(torch.from_numpy(x).to(dtype))]


def largest(difference):
    return difference.abs().max().item()


def load(name):
    map_names, build = NETWORKS[name]
    with np.load(GOLDEN / f"{name}.npz") as file:
        golden = dict(file)
    keys = json.loads((GOLDEN / f"{name}.keys.json").read_text())
    shapes = {key.removeprefix("module."): shape for key, shape in keys.items()}
    network = build().eval()
    network.load_state_dict(
        from_release(golden_state(shapes, float(golden["gain"]), torch.float32))
    )
    return network, map_names, golden


def errors_of(maps, map_names, golden):
    """For each map: the largest error relative to its largest value."""
    errors = []
    for map_name, y in zip(map_names, maps, strict=True):
        assert tuple(golden[f"{map_name}.shape"]) == y.shape
        expected = torch.from_numpy(golden[map_name]).double()
        _, c, h, w = y.shape
        part = y[:, :: max(1, c // 16), :: max(1, h // 6), :: max(1, w // 6)]
        mean_error = y.abs().mean().item() / float(golden[f"{map_name}.mean_abs"]) - 1
        errors.append(
            max(largest(part - expected) / largest(expected), abs(mean_error))
        )
    return errors


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_authors_network(name, two_threads):
    network, map_names, golden = load(name)
    maps = maps_of(network, torch.float32)

    errors = errors_of(maps, map_names, golden)
    # The full-width MobileNetV2 is ill-conditioned with these weights: what differs in
    # the last bit at feature1 differs by half of the map at feature18. Its later maps
    # come out only in the authors' own order of operations, see test_authors.py.
    if name.startswith("odmobilenetv2_100"):
        errors = errors[:2]
    assert max(errors) <= TOLERANCE, dict(zip(map_names, errors, strict=False))


@pytest.mark.parametrize("name", ["odmobilenetv2_100_1x", "odmobilenetv2_100_4x"])
def test_ill_conditioned_networks_equal_the_oracle_on_any_cpu(name, monkeypatch):
    """In float64 the condition leaves digits enough."""
    network, _, _ = load(name)
    maps = maps_of(network, torch.float64)
    monkeypatch.setattr(ODConv2d, "forward", odconv2d_oracle)
    for module in network.modules():
        if isinstance(module, ODConv2d):
            module.fold = None  # the oracle is the layer without its BatchNorm
    for y, expected in zip(maps, maps_of(network, torch.float64), strict=True):
        assert largest(y - expected) <= TOLERANCE * largest(expected)
