"""BatchNorms inside inflated layers get statistics of data, and nothing else moves."""

import copy

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d, calibrate, inflate, swap
from odconv_det.calibration import inner_norms
from odconv_det.layers import CondConv2d, DCDConv2d


def static():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)
    ).eval()


def inflated(layer):
    source, net = static(), static()
    swap(net, dict(names="3"), layer)
    net.load_state_dict(inflate(source.state_dict(), net))
    return net


def batches(count=4):
    generator = torch.Generator().manual_seed(1)
    gains = [30 * torch.rand(6, 3, 1, 1, generator=generator) for _ in range(count)]
    return [g * torch.randn(6, 3, 9, 9, generator=generator) + g for g in gains]


def test_the_trunk_of_the_attention_is_normalised_over_the_batches():
    net = inflated(ODConv2d)
    assert calibrate(net, batches()) == 4
    attention = net[3].attention
    with torch.no_grad():
        trunk = [attention.fc(net[:3](x).mean((2, 3))) for x in batches()]
    bn = attention.bn
    mean = torch.stack([z.mean(0) for z in trunk]).mean(0)
    var = torch.stack([z.var(0) for z in trunk]).mean(0)
    assert var.min() < 1 < var.max()
    var = var.clamp(min=1)  # it may only shrink
    torch.testing.assert_close(bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bn.running_var, var, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [ODConv2d, DCDConv2d])
@pytest.mark.parametrize("training", [True, False])
def test_function_modes_and_momentum_stay_as_they_were(layer, training):
    net = inflated(layer)
    x = batches(1)[0]
    expected = net(x)
    net.train(training)
    net[1].eval()
    modes = [m.training for m in net.modules()]
    outer = copy.deepcopy(net[1].state_dict())
    calibrate(net, batches())
    assert [m.training for m in net.modules()] == modes
    assert all(norm.momentum == 0.1 for norm in inner_norms(net))
    assert all(torch.equal(v, outer[k]) for k, v in net[1].state_dict().items())
    torch.testing.assert_close(net.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_a_layer_without_norms_looks_at_no_batch():
    assert calibrate(inflated(CondConv2d), iter(["not an image"])) == 0


@pytest.mark.parametrize("images", [[], [torch.zeros(1, 3, 9, 9)], [None]])
def test_without_a_batch_it_raises_and_all_is_as_it_was(images):
    net = inflated(ODConv2d)
    calibrate(net, batches())
    before = copy.deepcopy(net.state_dict())
    with pytest.raises((ValueError, TypeError)):
        calibrate(net, images)
    assert not any(m.training for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
