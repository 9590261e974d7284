"""BatchNorm of what was pooled: one value for each channel of a sample."""

import pytest
import torch
from torch import nn

from odconv_det.layers.norm import pooled_batch_norm


@pytest.fixture
def norm():
    """With an eps that shows."""
    norm = nn.BatchNorm2d(5, eps=0.5).double()
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.normal_()
        norm.running_var.uniform_(0.01, 1)
    return norm


def explicit(norm, z, mean, var):
    shape = (-1, *[1] * (z.dim() - 2))
    mean, var, weight, bias = (
        value.view(shape) for value in (mean, var, norm.weight, norm.bias)
    )
    return (z - mean) / (var + norm.eps).sqrt() * weight + bias


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (3, 5, 4), (3, 5, 4, 6)])
def test_in_eval_mode_it_takes_the_running_statistics(shape, norm):
    z = torch.randn(shape, dtype=torch.float64)
    expected = explicit(norm, z, norm.running_mean, norm.running_var)
    torch.testing.assert_close(pooled_batch_norm(norm.eval(), z), expected)


@pytest.mark.filterwarnings("ignore:training with fewer than two samples")
def test_in_training_a_batch_of_one_takes_the_running_statistics(norm):
    z = torch.randn(1, 5, dtype=torch.float64)
    before = norm.running_mean.clone(), norm.running_var.clone()
    torch.testing.assert_close(pooled_batch_norm(norm, z), explicit(norm, z, *before))
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])


@pytest.mark.parametrize("shape", [(3, 5), (1, 5, 4), (3, 5, 4, 6)])
def test_in_training_it_takes_the_statistics_of_the_batch(shape, norm):
    z = torch.randn(shape, dtype=torch.float64)
    dims = [0, *range(2, z.dim())]
    mean, var = z.mean(dims), z.var(dims, correction=0)
    torch.testing.assert_close(pooled_batch_norm(norm, z), explicit(norm, z, mean, var))
