import copy
import io

import pytest
import torch
from demo import weights
from mmdet.models.backbones import MobileNetV2
from mmdet.registry import MODELS

import odconv_det  # noqa: F401  (registers ODMobileNetV2)
from odconv_det.checkpoints import CheckpointError, inflate, largest_difference


@pytest.fixture(scope="module")
def network():
    """A static MobileNetV2 whose every tensor is random."""
    torch.manual_seed(0)
    network = MobileNetV2()
    for name, tensor in network.state_dict().items():
        if tensor.dim() == 4:
            torch.nn.init.kaiming_normal_(tensor)
        elif tensor.dim() == 1:
            low, high = (-0.2, 0.2) if name.endswith(("bias", "mean")) else (0.5, 1.5)
            torch.nn.init.uniform_(tensor, low, high)
    network.eval()
    return network


def as_file(tensors):
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


PLACES = ("expand_conv", "depthwise_conv", "linear_conv")


def under_the_files_names(network):
    """features.N.conv.M.*, where M counts the activations of a block as well."""
    names = {"conv1": "features.0", "conv2": "features.18"}
    blocks = [
        name for layer in network.layers[:7] for name in blocks_of(network, layer)
    ]
    for number, block in enumerate(blocks, start=1):
        places = PLACES[1:] if number == 1 else PLACES
        for position, place in enumerate(places):
            names[f"{block}.{place}"] = f"features.{number}.conv", 3 * position
    tensors = {}
    for key, tensor in network.state_dict().items():
        module, kind, parameter = key.rsplit(".", 2)
        prefix, first = names[module] if "layer" in module else (names[module], 0)
        tensors[f"{prefix}.{first + (kind == 'bn')}.{parameter}"] = tensor
    return tensors


def blocks_of(network, layer):
    return [f"{layer}.{number}" for number in range(len(getattr(network, layer)))]


def test_the_files_312_tensors_are_mmdetections(network):
    tensors = under_the_files_names(network)
    assert len(tensors) == 312
    loaded, renamed = weights.load_static(as_file(tensors))
    assert list(renamed) == list(network.state_dict())
    images = torch.randn(1, 3, 64, 96)
    assert largest_difference(network, loaded, images) == 0


def test_the_inflated_network_computes_the_static_networks_maps(network):
    dynamic = MODELS.build(dict(type="ODMobileNetV2", kernel_num=4))
    dynamic.eval()
    # In float32 the last bit of a random MobileNetV2 grows to 1e-4 of a map.
    network, dynamic = copy.deepcopy(network).double(), dynamic.double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    assert largest_difference(network, dynamic, images) > 0.1
    dynamic.load_state_dict(inflate(network.state_dict(), dynamic))
    assert largest_difference(network, dynamic, images) < 1e-6


def test_a_missing_tensor_is_an_error_that_names_it(network):
    tensors = under_the_files_names(network)
    del tensors["features.7.conv.3.weight"]
    missing = r"1 missing \(layer4\.0\.depthwise_conv\.conv\.weight\)"
    with pytest.raises(CheckpointError, match=missing):
        weights.load_static(as_file(tensors))


def test_a_tensor_of_another_shape_is_an_error_that_names_it(network):
    tensors = under_the_files_names(network)
    tensors["features.0.0.weight"] = torch.zeros(16, 3, 3, 3)
    with pytest.raises(CheckpointError, match=r"conv1\.conv\.weight \(16, 3, 3, 3\)"):
        weights.load_static(as_file(tensors))


def test_a_file_that_names_code_is_refused():
    content = as_file({"weight": torch.zeros(1), "layer": torch.nn.ReLU()})
    with pytest.raises(CheckpointError, match="could run code"):
        weights.load_static(content)
