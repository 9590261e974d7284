"""Which form a fused layer takes."""

import pytest
import torch
from torch import nn

from odconv_det.core.dispatch import Case, choose
from odconv_det.fusion import modules
from odconv_det.fusion.modules import FusedConv2d, static_form


def case(device, batch, *, pointwise=True):
    size = 1 if pointwise else 3
    return Case(
        batch=batch,
        in_channels=64,
        out_channels=64,
        groups=1,
        kernel_size=(size, size),
        padding=(size // 2, size // 2),
        in_size=(50, 84),
        out_size=(50, 84),
        per_sample=False,
        channels_last=False,
        device=device,
    )


@pytest.mark.parametrize("pointwise", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_on_a_gpu_a_static_kernel_is_convolved(batch, pointwise):
    assert static_form(case("cuda", batch, pointwise=pointwise)) == "shared"


def test_which_the_table_for_kernels_of_single_samples_does_not_say():
    assert choose(case("cuda", 2)).convolve == "matmul"


def test_on_a_cpu_it_is_a_product_where_the_table_says_so():
    assert static_form(case("cpu", 2)) == "matmul"
    assert static_form(case("cpu", 2)._replace(channels_last=True)) == "shared"
    assert static_form(case("cpu", 2, pointwise=False)) == "shared"


@pytest.mark.parametrize("device, form", [("cpu", "matmul"), ("cuda", "shared")])
def test_a_fused_convolution_takes_that_form(device, form, monkeypatch):
    read, convolve, taken = modules.case_of, modules.convolve, []

    def spy(x, kernels, bias, geometry, form, *args, **kwargs):
        taken.append(form)
        return convolve(x, kernels, bias, geometry, form, *args, **kwargs)

    def elsewhere(*args):
        return read(*args)._replace(device=device)

    monkeypatch.setattr(modules, "case_of", elsewhere)
    monkeypatch.setattr(modules, "convolve", spy)
    conv, x = nn.Conv2d(8, 4, 1), torch.randn(2, 8, 5, 6)
    y = FusedConv2d(conv, None, "relu")(x)
    assert taken == [form]
    torch.testing.assert_close(y, conv(x).relu())
