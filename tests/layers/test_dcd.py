"""DCDConv2d: the sizes of the authors' modules, and what the fusion sees."""

import math

import pytest
import torch
from torch import nn

from odconv_det.layers import DCDConv2d
from tests.layers.cases import GEOMETRIES, image, make

EXPANSION = 6
# Of the MobileNetV2 with every width: layers' outputs and repetitions after the first.
MOBILE = [(24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)]


def sizes(layer):
    """Side of the pooled input, latent and hidden width."""
    hidden, pooled = layer.attention.reduce.weight.shape[:2]
    latent = layer.fusion.squeeze.weight.shape[0]
    return math.isqrt(pooled // layer.in_channels), latent, hidden


def of_the_authors(kind, ins, outs, squeeze=16):
    """m, d and q of the authors' three kinds of module, as formulas."""
    if kind == "basic":
        m, d = 4, int(math.sqrt(4 * ins))
        q = max(4, max(4 * ins, d**2) // 16)
    elif kind == "bottleneck":
        m, d = 1, int(math.sqrt(ins))
        q = max(ins, d**2) // 16
    else:
        m, ratio = (4, 8) if ins < outs else (1, 2)
        d = min(m * ins // ratio, outs // ratio)
        while d**2 > 2 * m * ins:
            ratio *= 2
            d = min(m * ins // ratio, outs // ratio)
        d = max(d, 4)
        q = max(4, max(m * ins, d**2) // squeeze)
    return math.isqrt(m), d, q


def resnet18():
    """Channels and kernel size of every convolution but the stem and shortcuts."""
    ins = 64
    for outs in (64, 128, 256, 512):
        yield ins, outs, 3
        yield from [(outs, outs, 3)] * 3
        ins = outs


def resnet50():
    ins = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            yield from ((ins, width, 1), (width, width, 3), (width, 4 * width, 1))
            ins = 4 * width


def mobilenet(width):
    """The pointwise convolutions of every block that widens its input."""

    def channels(count):
        scaled = count * width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    ins = channels(16)
    for count, blocks in MOBILE:
        for _ in range(blocks):
            outs = channels(count)
            yield from ((ins, ins * EXPANSION, 1), (ins * EXPANSION, outs, 1))
            ins = outs


NETWORKS = {
    "resnet18": ("basic", 16, list(resnet18()), 512, 11_689_512, 14_703_332),
    "resnet50": ("bottleneck", 16, list(resnet50()), 2048, 25_557_032, 29_835_056),
    **{
        f"mobilenet {width}": (
            *("inverted_residual", squeeze, list(mobilenet(width)), 1280),
            *(static, dynamic),
        )
        for width, squeeze, static, dynamic in (
            (1.0, 16, 3_504_872, 5_720_028),
            (0.75, 16, 2_636_424, 4_081_621),
            (0.5, 8, 1_968_680, 3_056_616),
        )
    },
}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


class TestSizes:
    @pytest.mark.parametrize("network", NETWORKS)
    def test_are_the_authors_for_every_convolution_of_the_networks(self, network):
        kind, squeeze, convs, *_ = NETWORKS[network]
        assert len(convs) in (16, 48, 32)
        for ins, outs, k in convs:
            with torch.device("meta"):
                layer = DCDConv2d(ins, outs, k, kind=kind, squeeze=squeeze)
            assert sizes(layer) == of_the_authors(kind, ins, outs, squeeze)

    @pytest.mark.parametrize("network", NETWORKS)
    def test_give_the_network_the_paper_s_number_of_parameters(self, network):
        kind, squeeze, convs, features, static, dynamic = NETWORKS[network]
        with torch.device("meta"):
            for ins, outs, k in convs:
                static += count(
                    DCDConv2d(ins, outs, k, bias=False, kind=kind, squeeze=squeeze)
                ) - count(nn.Conv2d(ins, outs, k, bias=False))
            static += count(DCDConv2d(features, 1000, 1, kind="classifier"))
        static -= count(nn.Linear(features, 1000, device="meta"))
        assert static == dynamic

    @pytest.mark.parametrize(
        "kind, ins, outs, expected",
        [
            ("basic", 64, 64, (2, 16, 16)),
            ("basic", 512, 512, (2, 45, 128)),
            ("bottleneck", 64, 256, (1, 8, 4)),
            ("bottleneck", 2048, 512, (1, 45, 128)),
            ("inverted_residual", 24, 144, (2, 12, 9)),
            ("inverted_residual", 144, 24, (1, 12, 9)),
            ("inverted_residual", 960, 160, (1, 40, 100)),
            ("classifier", 512, 1000, (1, 32, 32)),
        ],
    )
    def test_are_these(self, kind, ins, outs, expected):
        with torch.device("meta"):
            assert sizes(DCDConv2d(ins, outs, 1, kind=kind)) == expected

    @pytest.mark.parametrize("kind", ["basic", "bottleneck", "inverted_residual"])
    @pytest.mark.parametrize("ins, outs", [(1, 1), (3, 2), (1, 64), (7, 5)])
    def test_are_at_least_one_for_few_channels(self, kind, ins, outs):
        layer = DCDConv2d(ins, outs, 3, kind=kind).eval()
        assert min(sizes(layer)) >= 1
        assert layer(torch.rand(2, ins, 5, 5)).shape == (2, outs, 3, 3)


class TestFusion:
    @pytest.mark.parametrize("geometry", GEOMETRIES)
    @pytest.mark.parametrize("height, width", [(7, 9), (4, 4), (8, 5)])
    def test_has_the_size_of_the_output(self, geometry, height, width):
        layer = make("DCDConv2d", **GEOMETRIES[geometry]).eval()
        x = image(1, height, width)
        outs = layer(x).shape[2:]
        assert layer._sampled(x).shape[2:] == outs

    def test_sees_the_input_itself_where_the_output_is_as_large(self):
        layer = make("DCDConv2d", kernel_size=5, padding=2)
        assert torch.equal(layer._sampled(image()), image())

    def test_is_nothing_without_its_last_matrix(self):
        layer = make("DCDConv2d", kernel_size=3, padding=1).eval()
        with torch.no_grad():
            layer.fusion.expand.weight.zero_()
        x = image()
        filter_, _ = layer.attention(x)
        static = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
        expected = filter_[..., None, None] * static
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)

    def test_the_filter_attention_is_between_zero_and_two(self):
        layer = make("DCDConv2d", kernel_size=1)
        filter_, _ = layer.attention(10 * image(16))
        assert filter_.min() == 0
        assert filter_.max() == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(kind="res1"), "kind must be one of.*'basic'.*'res1'"),
        (dict(kind=None), "kind.*None"),
        (dict(squeeze=0), "squeeze.*0"),
        (dict(squeeze=2.5), "squeeze.*2.5"),
    ],
)
def test_names_what_it_does_not_know(arguments, message):
    with pytest.raises(ValueError, match=message):
        DCDConv2d(8, 8, 1, **arguments)
