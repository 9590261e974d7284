"""CGConv2d: which channels interact, and what the gate depends on."""

import pytest
import torch

from odconv_det.layers import CGConv2d
from tests.layers.cases import randomize
from tests.oracle import oracle


def features(channels, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, 6, 5, generator=generator, dtype=torch.float64)


def layer(ins, outs, k=3, **options):
    torch.manual_seed(0)
    return randomize(CGConv2d(ins, outs, k, padding=k // 2, **options)).double().eval()


class TestGroups:
    @pytest.mark.parametrize(
        "ins, outs, expected",
        [
            (3, 64, (64, 3)),
            (8, 12, (12, 8)),
            (16, 16, (16, 16)),
            (64, 64, (16, 16)),
            (64, 128, (32, 16)),
            (512, 256, (8, 16)),
        ],
    )
    def test_are_of_sixteen_channels(self, ins, outs, expected):
        assert layer(ins, outs).attention.interact.weight.shape[:2] == expected

    @pytest.mark.parametrize(
        "ins, outs, groups", [(48, 32, 2), (40, 40, 2), (35, 10, 1), (96, 27, 3)]
    )
    def test_are_wider_where_sixteen_does_not_fit(self, ins, outs, groups):
        module = layer(ins, outs)
        assert module.attention.groups == groups
        assert module.attention.interact.weight.shape[:2] == (
            outs // groups,
            ins // groups,
        )
        assert module(features(ins)).shape == (2, outs, 6, 5)

    @pytest.mark.parametrize(
        "ins, outs, options",
        [
            (32, 48, dict()),
            (64, 32, dict(groups=4)),
            (32, 32, dict(groups=32)),
            (48, 6, dict(k=7)),
        ],
    )
    def test_share_one_matrix_as_in_the_oracle(self, ins, outs, options):
        module, x = layer(ins, outs, **options), features(ins)
        torch.testing.assert_close(module(x), oracle(module, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "k, hidden", [(1, 1), (3, 5), (5, 13), (7, 25), ((1, 3), 2), ((2, 4), 5)]
)
def test_the_input_is_encoded_to_half_of_the_kernel_s_positions(k, hidden):
    gate = CGConv2d(8, 8, k).attention
    area = gate.encode.weight.shape[1]
    assert gate.encode.weight.shape[:2] == (hidden, area)
    assert gate.channel_fc.weight.shape[:2] == (area, hidden)
    assert gate.filter_fc.weight.shape[:2] == (area, hidden)


def test_the_gate_sees_where_in_the_image_something_is():
    module, x = layer(8, 8), features(8, 1)
    gates = [module.kernels(*module.attention(v)) for v in (x, x.flip(2))]
    assert (gates[0] - gates[1]).abs().max() > 1e-3
