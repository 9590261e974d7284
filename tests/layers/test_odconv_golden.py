"""ODConv2d equals the authors' layer: forward, gradients, BatchNorm buffers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from odconv_det import ODConv2d
from tests.golden_weights import golden_state

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "odconv2d_layer.json").read_text())
GAIN = 1.4


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "odconv2d_layer.npz") as file:
        return dict(file)


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        actual.detach().numpy(), expected, rtol=0, atol=1e-10 * max(scale, 1e-300)
    )


@pytest.mark.parametrize("index", range(len(CASES)))
def test_equals_the_authors_layer(index, arrays):
    case = CASES[index]
    layer = ODConv2d(
        case["cin"],
        case["cout"],
        case["k"],
        case["stride"],
        case["padding"],
        case["dilation"],
        case["groups"],
        bias=False,
        kernel_num=case["n"],
        reduction=case["reduction"],
        temperature=case["temperature"],
    ).double()
    shapes = {key: value.shape for key, value in layer.state_dict().items()}
    layer.load_state_dict(golden_state(shapes, GAIN, torch.float64))
    layer.train(case["train"])

    x = torch.from_numpy(arrays[f"case{index}.x"]).requires_grad_()
    y = layer(x)
    (y * torch.from_numpy(arrays[f"case{index}.grad_y"])).sum().backward()

    close(y, arrays[f"case{index}.y"])
    close(x.grad, arrays[f"case{index}.grad_x"])
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    prefix = f"case{index}.grad."
    expected = {k[len(prefix) :] for k in arrays if k.startswith(prefix)}
    assert expected == set(gradients)
    for name, gradient in gradients.items():
        close(gradient, arrays[prefix + name])
    prefix = f"case{index}.buffer."
    buffers = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
    assert bool(buffers) == case["train"]
    for name, buffer in buffers.items():
        close(layer.get_buffer(name), buffer)
