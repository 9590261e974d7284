from types import SimpleNamespace

import pytest
import torch

from odconv_det.core.precision import autocast_input, full_precision, matmul_is_fast


# "hpu" stands for devices that torch knows and the package was not made for; "meta" has
# no autocast.
@pytest.mark.parametrize("device_type", ["cpu", "hpu"])
def test_autocast_is_left_and_entered_again(device_type):
    with torch.autocast(device_type, dtype=torch.bfloat16):
        with full_precision(device_type):
            assert not torch.is_autocast_enabled(device_type)
        assert torch.is_autocast_enabled(device_type)


@pytest.mark.parametrize("device_type", ["cpu", "hpu", "meta"])
def test_without_autocast_nothing_is_entered(device_type):
    with full_precision(device_type) as entered:
        assert entered is None


def test_an_input_is_rounded_as_a_convolution_rounds_it_under_autocast():
    x = torch.rand(2)
    assert autocast_input(x) is x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast_input(x).dtype == torch.bfloat16
        assert autocast_input(x.double()).dtype == torch.float64
    assert autocast_input(x.to("meta")).device.type == "meta"


def on_a_gpu(dtype=torch.float32):
    return SimpleNamespace(dtype=dtype, device=torch.device("cuda"))


@pytest.fixture
def tf32():
    """torch's two switches, which are put back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield matmul, cudnn
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.filterwarnings("ignore:.*TF32")
@pytest.mark.parametrize(
    "matmul, cudnn, fast",
    [(False, True, False), (True, True, True), (False, False, True)],
)
def test_a_product_is_slow_where_only_convolutions_may_use_tf32(
    matmul, cudnn, fast, tf32
):
    tf32[0].allow_tf32, tf32[1].allow_tf32 = matmul, cudnn
    assert matmul_is_fast(on_a_gpu()) == fast
    assert matmul_is_fast(on_a_gpu(torch.float16))
    assert matmul_is_fast(torch.rand(1))
