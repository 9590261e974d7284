"""A dynamic network that starts as its static twin."""

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d, swap
from odconv_det.checkpoints import CheckpointError, inflate


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
