"""All of a file's tensors fit, or an error says which do not and why."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d
from odconv_det.checkpoints import CheckpointError, from_release, load_exactly, mismatch
from odconv_det.checkpoints.describe import describe

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_shapes(name):
    keys = json.loads((GOLDEN / f"{name}.keys.json").read_text())
    return from_release({k: torch.empty(s, device="meta") for k, s in keys.items()})


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), ODConv2d(8, 8, 3, kernel_num=2))


def test_loads_all_and_counts():
    source, target = network(), network()
    count = load_exactly(target, source.state_dict(), "file")
    assert count == len(source.state_dict())
    for key, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], tensor)


def edited(**changes):
    state = network().state_dict()
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    "state, message",
    [
        (edited(**{"0__bias": None}), r"1 missing \(0\.bias\)"),
        (edited(**{"2__bias": torch.zeros(1)}), r"1 unexpected \(2\.bias\)"),
        (
            edited(**{"0__bias": torch.zeros(9)}),
            r"1 of another shape \(0\.bias \(9,\) instead of \(8,\)\)",
        ),
    ],
)
def test_names_what_does_not_fit_and_loads_nothing(state, message):
    target = network()
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_exactly(target, state, "weights.pth")
    assert "weights.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[k], t) for k, t in target.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.cfloat])
@pytest.mark.parametrize("name", ["0.weight", "1.attention.bn.running_mean"])
def test_weights_must_be_real_numbers(name, dtype):
    state = network().state_dict()
    state[name] = state[name].to(dtype)
    with pytest.raises(CheckpointError) as caught:
        load_exactly(network(), state, "weights.pth")
    said = f"1 of another type ({name} {dtype} instead of torch.float32)"
    assert said in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_must_be_finite(dtype, value):
    state = {key: t.to(dtype) for key, t in network().state_dict().items()}
    load_exactly(network(), state, "weights.pth")
    state["1.weight"].view(-1)[5] = value
    with pytest.raises(CheckpointError, match=r"1 with NaN or infinity \(1\.weight\)"):
        load_exactly(network(), state, "weights.pth")


def test_weights_must_be_finite_in_the_type_of_the_network():
    state = network().state_dict()
    state["0.weight"] = torch.full_like(state["0.weight"], 1e5)
    load_exactly(network(), state, "weights.pth")
    with pytest.raises(CheckpointError, match=r"NaN or infinity \(0\.weight\)"):
        load_exactly(network().half(), state, "weights.pth")


def test_what_is_infinite_in_the_network_may_be_so_in_the_file():
    """Such as the mask of a text encoder."""
    state = {"mask": torch.full((2, 2), -float("inf")).triu(1)}
    assert mismatch(state, state) is None


def test_shows_the_first_few_keys_only():
    message = mismatch({f"key{i}": torch.zeros(1) for i in range(100)}, {})
    assert message == "100 missing (key0, key1, key2, ...)"


@pytest.mark.parametrize(
    "name, settings",
    [
        ("odresnet18_4x", dict(network="ResNet", depth=18, kernel_num=4)),
        ("odresnet50_1x", dict(network="ResNet", depth=50, kernel_num=1)),
        ("odmobilenetv2_100_1x", dict(widen_factor=1.0, kernel_num=1)),
        ("odmobilenetv2_050_4x", dict(widen_factor=0.5, kernel_num=4)),
    ],
)
def test_tells_the_settings_of_a_file(name, settings):
    found = describe(golden_shapes(name))
    assert found | settings == found


def reduced(reduction, width=64, kernel_size=1):
    layers = [ODConv2d(c, width, kernel_size, reduction=reduction) for c in (16, width)]
    return nn.Sequential(*layers).state_dict()


def test_tells_another_reduction():
    message = mismatch(reduced(1 / 2), reduced(1 / 4, kernel_size=3))
    assert "made with reduction=0.25, this network has reduction=0.5" in message


def test_tensors_of_something_else_are_not_described():
    assert mismatch(reduced(1 / 2), {}).startswith("28 missing")


def test_another_width_is_not_taken_for_another_reduction():
    assert "reduction" not in mismatch(
        reduced(1 / 2, width=64), reduced(1 / 2, width=72)
    )


def test_tells_static_weights():
    assert describe(nn.Sequential(nn.Conv2d(3, 8, 3)).state_dict()) == {
        "kernel_num": "static"
    }
