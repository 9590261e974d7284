"""Processes started by torchrun compute what one does on all their images."""

import copy
import functools

import pytest
import torch
from torch import nn

from tests.distributed import networks


@pytest.fixture(scope="module", params=[2, 4])
def group(request, members):
    """What the processes of a group of this size have found."""
    return members(request.param)


def gradients(network):
    found = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
    return copy.deepcopy(found)


@functools.cache
def trained_alone(case):
    """Gradients of one iteration, and of one of two parts, of one process."""
    network = networks.build_frozen(*case)
    assert any(getattr(m, "fold", None) for m in network.modules())
    found = []
    for steps in ([1], [2, 3]):
        network.zero_grad()
        for step in steps:
            networks.loss(network(networks.images(4, step))).backward()
        found.append(gradients(network))
    return found


@functools.cache
def normalized_alone(backbone, layer, batch):
    """Outputs, gradients and buffers of one process with this batch."""
    network = networks.build_normalizing(backbone, layer)
    assert all(m.training for m in network.modules())
    maps = network(networks.images(batch, step=1))
    networks.loss(maps).backward()
    return maps, gradients(network), dict(network.named_buffers())


def assert_equal(found, expected, tolerance):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert value is not None, name
        error = (found[name] - value).abs().max()
        assert error <= tolerance * value.abs().max() + 1e-10, name


@pytest.mark.parametrize("case", networks.FROZEN, ids=str)
def test_gradients_equal_those_of_one_process(case, group):
    first, accumulated = trained_alone(case)
    assert len(first) > 50
    _, _, freeze_attention = case
    for found in group:
        assert_equal(found[case]["first"], first, 1e-9)
        assert_equal(found[case]["accumulated"], accumulated, 1e-9)
    frozen = [
        n
        for n, p in networks.build_frozen(*case).named_parameters()
        if not p.requires_grad
    ]
    assert frozen
    assert freeze_attention or not any(".attention." in n for n in frozen)


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("case", networks.SYNCED, ids=str)
def test_sync_norm_equals_one_process(case, each, group):
    backbone, layer, _ = case
    maps, gradients, buffers = normalized_alone(backbone, layer, each * len(group))
    for rank, found in enumerate(group):
        answer = found[(*case, each)]
        # Two values may hardly differ, and rounding errors are divided by that.
        own = {str(i): y.chunk(len(group))[rank] for i, y in enumerate(maps)}
        assert_equal(answer["outputs"], own, 1e-5)
        assert_equal(answer["gradients"], gradients, 1e-5)
        assert_equal(answer["buffers"], buffers, 1e-5)


def test_calibration_of_sync_norm_ends_with_the_same_statistics(group):
    first, *others = (found["calibrated"] for found in group)
    assert len(first) == 51
    assert all(mean.any() for mean in first.values())
    for found in others:
        assert all(torch.equal(found[name], mean) for name, mean in first.items())


def test_one_image_alone_has_no_statistics():
    """So the groups with one image for each process have to exchange them."""
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(3).train()(torch.zeros(1, 3, 1, 1))
