"""The Triton kernels equal the torch versions, in triton's interpreter on a CPU."""

import itertools
import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import pytest
import torch
import torch.nn.functional as F

from odconv_det.core import kernels, pooling
from odconv_det.core.kernels import Scales
from odconv_det.layers.odconv import _activate
from tests.needs import needs_triton

try:
    from odconv_det.core import triton_kernels
except ModuleNotFoundError:
    triton_kernels = None

# Of the largest value; float16 rounds the result once.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3}
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16], ids=["float32", "float16"]
)


pytestmark = needs_triton


@pytest.fixture(autouse=True)
def _triton():
    if triton_kernels is None:
        pytest.fail("triton is not installed: pip install triton", pytrace=False)
    if not triton_kernels.available(torch.zeros(1)):
        pytest.fail("something imported triton before TRITON_INTERPRET=1 was set")


def assert_equal(actual, expected, dtype):
    assert actual.shape == expected.shape
    error = (actual.float() - expected.float()).abs().max()
    assert error <= TOLERANCE[dtype] * expected.float().abs().max()


def test_float64_is_left_to_torch():
    assert not triton_kernels.available(torch.zeros(1, dtype=torch.float64))


@DTYPES
@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 3, 1, 1),
        (3, 5, 7, 9),
        (1, 70, 13, 11),  # more channels than a block has, and no multiple of it
        (1, 2, 67, 71),  # NCHW: several chunks of one row
        (2, 1, 5, 4),
    ],
)
def test_pool_is_the_mean_of_each_channel(shape, layout, dtype):
    x = (torch.randn(shape) + 1).to(dtype).contiguous(memory_format=layout)
    pooled = triton_kernels.pool(x, dtype)
    assert pooled.dtype == dtype
    assert_equal(pooled, pooling.global_average(x.float(), torch.float32), dtype)


def test_pool_gives_the_same_bits_every_time():
    x = torch.randn(2, 66, 31, 33).contiguous(memory_format=torch.channels_last)
    first = triton_kernels.pool(x, torch.float32)
    assert torch.equal(first, triton_kernels.pool(x, torch.float32))


def test_pool_divides_a_large_map_among_no_more_than_its_programs(monkeypatch):
    monkeypatch.setattr(triton_kernels, "PROGRAMS", 4)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(1, 2, 97, 89).contiguous(memory_format=layout)
        pooled = triton_kernels.pool(x, torch.float32)
        assert_equal(pooled, x.mean((2, 3)), torch.float32)


def test_pool_takes_a_part_of_a_map():
    x = torch.randn(2, 6, 8, 8)[:, 1:4, ::2, 3:]
    assert_equal(triton_kernels.pool(x, torch.float32), x.mean((2, 3)), torch.float32)


@DTYPES
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "in_channels, hidden, sizes",
    [
        (20, 16, [20, 30, 9, 4]),
        (700, 5, [7, 0, 0, 4]),  # the trunk sums over more than one block
        (8, 130, [8, 40, 9, 0]),  # several blocks of outputs
        (3, 16, [3, 0, 0, 0]),
        (6, 300, [6, 6, 1, 9]),  # more kernels than other outputs in a block
    ],
)
def test_attend_is_what_follows_the_pooling(in_channels, hidden, sizes, batch, dtype):
    torch.manual_seed(0)
    pooled = torch.randn(batch, in_channels).to(dtype)
    outputs = sum(sizes)
    weights = [
        torch.randn(hidden, in_channels).to(dtype) / in_channels**0.5,
        torch.randn(hidden).to(dtype),
        torch.randn(outputs, hidden).to(dtype) / hidden**0.5,
        torch.randn(outputs).to(dtype),
    ]
    attentions = triton_kernels.attend(pooled, *weights, sizes)
    trunk_weight, trunk_bias, head_weight, head_bias = (w.float() for w in weights)
    inner = F.linear(pooled.float(), trunk_weight, trunk_bias).relu()
    expected = _activate(F.linear(inner, head_weight, head_bias), sizes)
    assert len(attentions) == len(expected) == 4
    for own, other in zip(attentions, expected, strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            assert own.dtype == dtype
            assert_equal(own, other, dtype)


def bank_of(shape, layout, dtype=torch.float32):
    bank = torch.randn(shape).to(dtype)
    if layout == "nchw":
        return bank
    return bank.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def layout_of(kernels_):
    """Strides of the dimensions in which there is a step to take."""
    pairs = zip(kernels_.shape, kernels_.stride(), strict=True)
    return [stride for size, stride in pairs if size > 1]


def check_modulate(bank, kernel, scales, dtype):
    before = bank.clone()
    own = triton_kernels.modulate(bank, kernel, scales, dtype)
    widened = Scales(*(None if s is None else s.float() for s in scales))
    kernel = None if kernel is None else kernel.float()
    expected = kernels.modulate(bank.float(), kernel, widened)
    assert own.dtype == dtype
    assert layout_of(own) == layout_of(expected)
    assert_equal(own, expected, dtype)
    assert torch.equal(bank, before)


@DTYPES
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kernel_num", [1, 3, 4])
@pytest.mark.parametrize(
    "in_channels, out_channels, groups, size",
    [(5, 7, 1, (3, 3)), (6, 4, 2, (1, 3)), (9, 9, 9, (3, 3)), (13, 31, 1, (1, 1))],
    ids=["plain", "groups", "depthwise", "1x1"],
)
def test_modulate_makes_the_kernel_of_each_sample(
    in_channels, out_channels, groups, size, kernel_num, batch, layout, dtype
):
    width = in_channels // groups
    bank = bank_of((kernel_num, out_channels, width, *size), layout, dtype)
    kernel = None if kernel_num == 1 else torch.rand(batch, kernel_num)
    scales = Scales(
        torch.rand(batch, in_channels),
        torch.rand(batch, out_channels),
        torch.rand(batch, size[0] * size[1]),
    )
    check_modulate(bank, kernel, scales, dtype)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize(
    "absent",
    [c for n in range(4) for c in itertools.combinations(Scales._fields, n)],
    ids="-".join,
)
def test_modulate_does_without_absent_attentions(absent, mixed, layout):
    bank = bank_of((4 if mixed else 1, 6, 5, 3, 3), layout)
    full = Scales(torch.rand(3, 5), torch.rand(3, 6), torch.rand(3, 9))
    scales = full._replace(**dict.fromkeys(absent))
    check_modulate(bank, torch.rand(3, 4) if mixed else None, scales, torch.float32)


def test_modulate_without_any_attention_is_the_bank():
    bank = torch.randn(1, 4, 3, 3, 3)
    nothing = Scales(None, None, None)
    assert triton_kernels.modulate(bank, None, nothing, torch.float32) is bank
    half = triton_kernels.modulate(bank, None, nothing, torch.float16)
    assert torch.equal(half, bank.half())


def test_modulate_gives_a_bank_of_both_layouts_kernels_in_nchw():
    for shape in ((4, 6, 5, 1, 1), (4, 6, 1, 3, 3)):
        bank = torch.randn(shape)
        assert bank.permute(0, 1, 3, 4, 2).is_contiguous()
        nothing = Scales(None, None, None)
        own = triton_kernels.modulate(bank, torch.rand(2, 4), nothing, torch.float32)
        assert own.is_contiguous()
        assert own.stride() == torch.empty(own.shape).stride()


def test_modulate_takes_one_filter_scale_for_all_samples():
    scales = Scales(torch.rand(3, 5), torch.rand(1, 6), None)
    check_modulate(torch.randn(1, 6, 5, 3, 3), None, scales, torch.float32)
    one = Scales(None, torch.rand(1, 6), None)
    check_modulate(torch.randn(1, 6, 5, 3, 3), None, one, torch.float32)
    check_modulate(torch.randn(4, 6, 5, 3, 3), torch.rand(3, 4), one, torch.float32)


def test_modulate_takes_attentions_that_are_parts_of_one_tensor():
    bank = torch.randn(4, 6, 5, 3, 3)
    parts = torch.rand(3, 24).split_with_sizes([5, 6, 9, 4], 1)
    check_modulate(bank, parts[3], Scales(*parts[:3]), torch.float32)
    columns = [part.t().contiguous().t() for part in parts]
    check_modulate(bank, columns[3], Scales(*columns[:3]), torch.float32)


def test_modulate_divides_a_bank_among_programs():
    scales = Scales(torch.rand(2, 40), torch.rand(2, 30), torch.rand(2, 9))
    check_modulate(torch.randn(4, 30, 40, 3, 3), torch.rand(2, 4), scales, torch.half)


class Recorder:
    """Takes the place of a kernel and notes what triton would compile anew for."""

    def __init__(self):
        self.compiled = set()

    def __getitem__(self, grid):
        def launch(*args, **constants):
            kinds = tuple(map(self._kind, args))
            self.compiled.add((kinds, tuple(constants.items())))

        return launch

    @staticmethod
    def _kind(value):
        """Of an argument: 1, multiples of 16 and all other numbers are kinds."""
        if isinstance(value, torch.Tensor):
            return value.dtype, value.data_ptr() % 16 == 0
        if isinstance(value, int):
            return value == 1 or (value % 16 == 0, value.bit_length() > 31)
        return type(value)


@pytest.fixture
def compiled(monkeypatch):
    """How many forms of the kernels were needed so far."""
    recorders = {name: Recorder() for name in ("_pool", "_layer", "_modulate")}
    for name, recorder in recorders.items():
        monkeypatch.setattr(triton_kernels, name, recorder)
    return lambda: [len(recorder.compiled) for recorder in recorders.values()]


def test_sizes_of_images_compile_a_bounded_number_of_kernels(compiled):
    def meet(sizes):
        for height, width in itertools.product(sizes, sizes):
            triton_kernels.pool(torch.zeros(1, 3, height, width), torch.float32)
        return compiled()

    first = meet([1, 2, 3, 5, 8, 13, 16, 31, 32, 48, 49, 64, 100])
    assert 10 < first[0] < 60  # one for each power of 2 and kind
    assert meet(range(50, 74)) == first


def test_sizes_of_batches_compile_a_bounded_number_of_kernels(compiled):
    def meet(batches):
        for batch in batches:
            bank, kernel = torch.zeros(4, 8, 8, 3, 3), torch.zeros(batch, 4)
            triton_kernels.modulate(bank, kernel, Scales(None, None, None), bank.dtype)
            pooled, trunk = torch.zeros(batch, 8), torch.zeros(16, 8)
            head, bias = torch.zeros(12, 16), torch.zeros(12)
            sizes = (8, 0, 0, 4)
            triton_kernels.attend(pooled, trunk, bias.new_zeros(16), head, bias, sizes)
        return compiled()

    first = meet([1, 2, 15, 16, 32])
    assert meet(range(1, 50)) == first
