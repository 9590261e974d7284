"""ODConv2d that starts as a static convolution."""

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d, set_temperature


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("temperature", [1.0, 30.0])
@pytest.mark.parametrize("kernel_num", [1, 4])
@pytest.mark.parametrize("kernel_size, groups", [(3, 1), (1, 1), (3, 8), (3, 2)])
def test_computes_the_static_convolution(
    kernel_size, groups, kernel_num, temperature, noise
):
    torch.manual_seed(0)
    static = nn.Conv2d(8, 8, kernel_size, groups=groups, bias=False).double()
    layer = ODConv2d(
        8, 8, kernel_size, groups=groups, bias=False, kernel_num=kernel_num
    ).double()
    set_temperature(layer, temperature)
    layer.inflate_(static.weight, noise=noise)
    x = torch.randn(3, 8, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), static(x), rtol=1e-12, atol=1e-12)


def test_noise_lets_the_kernel_attention_learn():
    """Equal kernels get equal gradients, and their attention gets none."""
    x, kernel = torch.randn(2, 8, 5, 5), torch.randn(8, 8, 3, 3)

    def kernel_gradient(noise):
        layer = ODConv2d(8, 8, 3, kernel_num=4)
        layer.inflate_(kernel, noise=noise)
        layer(x).square().sum().backward()
        return layer.attention.kernel_fc.bias.grad.abs().max()

    assert kernel_gradient(0.1) > 100 * kernel_gradient(0.0)


def test_names_a_wrong_shape():
    with pytest.raises(ValueError, match=r"\(8, 8, 3, 3\).*\(8, 8, 1, 1\)"):
        ODConv2d(8, 8, 3).inflate_(torch.zeros(8, 8, 1, 1))


def test_a_single_value_is_a_kernel_too():
    layer = ODConv2d(1, 1, 1, kernel_num=2, bias=False)
    layer.inflate_(torch.ones(1, 1, 1, 1), noise=0.1)
    x = torch.rand(2, 1, 3, 3)
    torch.testing.assert_close(layer(x), x)
