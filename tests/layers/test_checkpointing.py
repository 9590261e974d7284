"""A layer alone under torch's activation checkpointing."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from odconv_det.core.dispatch import force
from tests.layers.cases import GEOMETRIES, VARIANTS, image, make
from tests.layers.passes import run

each_variant = pytest.mark.parametrize("variant", VARIANTS)
both_ways = pytest.mark.parametrize("reentrant", [True, False])


def relu(layer, x):
    """As in the networks: in place."""
    return layer(x).relu_()


def checkpointed_relu(reentrant):
    return lambda layer, x: checkpoint(layer, x, use_reentrant=reentrant).relu_()


def assert_same(layer, x, reentrant):
    grad = torch.randn(layer(x).shape, dtype=torch.float64)
    expected = run(layer, x, grad, relu)
    found = run(layer, x, grad, checkpointed_relu(reentrant))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:training with fewer than two samples")
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("geometry", ["1x1", "strided 1x1", "3x3", "depthwise"])
@both_ways
@each_variant
def test_gives_the_same_map_and_gradients(variant, reentrant, geometry, batch):
    layer = make(variant, **GEOMETRIES[geometry]).double().train()
    x = image(batch, dtype=torch.float64).requires_grad_()
    assert_same(layer, x, reentrant)


@pytest.mark.parametrize("form", ["matmul", "grouped", "slices"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@both_ways
@each_variant
def test_gives_the_same_in_every_form(variant, reentrant, layout, form):
    layer = make(variant, kernel_size=1).double().train()
    x = image(dtype=torch.float64, memory_format=layout).requires_grad_()
    with force(convolve=form):
        assert_same(layer, x, reentrant)
