"""Networks hold nothing of the images that they saw, and nothing holds networks."""

import copy
import gc
import weakref

import pytest
import torch

from odconv_det import fuse, inflate
from tests.layers.blocks import network
from tests.layers.cases import LAYERS
from tests.live import live_tensors

CALLS = 2000


def call(net, number, channels=3):
    """With a map of another size for each of 37 * 41 numbers."""
    with torch.no_grad():
        net(torch.rand(1, channels, 8 + number % 37, 8 + number % 41))


def test_2000_maps_of_varying_size_leave_no_tensor():
    block = fuse(network("ODConv2d").layer1[0])
    call(block, 0, channels=8)
    before = live_tensors()
    for number in range(CALLS):
        call(block, number, channels=8)
    assert live_tensors() == before


def cycle(variant):
    """Weak references to every module that one round of it makes."""
    net = network(variant)
    clone = copy.deepcopy(net)
    clone.load_state_dict(inflate(network(None).state_dict(), clone), strict=True)
    nets = [net, clone, fuse(clone), fuse(copy.deepcopy(net))]
    for one in nets:
        call(one, 0)
    made = {module for one in nets for module in one.modules()}
    return [weakref.ref(module) for module in made]


@pytest.mark.parametrize("variant", LAYERS)
def test_no_module_outlives_its_network(variant):
    cycle(variant)  # what is set up once
    before = live_tensors()
    left = [module for _ in range(3) for module in cycle(variant)]
    gc.collect()
    assert len(left) > 100
    assert [module() for module in left if module() is not None] == []
    assert live_tensors() == before
