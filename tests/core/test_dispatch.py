"""The plan of a dynamic convolution: one table, a function of shapes alone."""

import itertools

import pytest
import torch

from odconv_det.core import dispatch
from odconv_det.core.dispatch import RULES, Case, Plan, choose, force
from odconv_det.core.forward import case_of
from odconv_det.core.kernels import Scales
from odconv_det.core.per_sample import Geometry

# Input channels, output channels, kernel size, stride, groups, input size.
LAYERS = {
    "resnet50 224 layer1 1x1": (256, 64, 1, 1, 1, (56, 56)),
    "resnet50 224 layer1 3x3": (64, 64, 3, 1, 1, (56, 56)),
    "resnet50 224 layer2 3x3/2": (128, 128, 3, 2, 1, (56, 56)),
    "resnet50 224 layer3 1x1": (256, 1024, 1, 1, 1, (14, 14)),
    "resnet50 224 layer4 3x3": (512, 512, 3, 1, 1, (7, 7)),
    "resnet50 224 layer4 1x1": (512, 2048, 1, 1, 1, (7, 7)),
    "resnet50 800 layer1 1x1": (256, 64, 1, 1, 1, (200, 336)),
    "resnet50 800 layer1 3x3": (64, 64, 3, 1, 1, (200, 336)),
    "resnet50 800 layer3 3x3": (256, 256, 3, 1, 1, (50, 84)),
    "resnet50 800 layer4 3x3": (512, 512, 3, 1, 1, (25, 42)),
    "resnet50 800 layer4 1x1": (2048, 512, 1, 1, 1, (25, 42)),
    "mobilenetv2 224 expand": (24, 144, 1, 1, 1, (56, 56)),
    "mobilenetv2 224 depthwise": (144, 144, 3, 1, 144, (56, 56)),
    "mobilenetv2 224 depthwise/2": (576, 576, 3, 2, 576, (14, 14)),
    "mobilenetv2 224 project": (960, 160, 1, 1, 1, (7, 7)),
    "mobilenetv2 224 last": (320, 1280, 1, 1, 1, (7, 7)),
    "mobilenetv2 800 expand": (24, 144, 1, 1, 1, (200, 336)),
    "mobilenetv2 800 depthwise": (144, 144, 3, 1, 144, (200, 336)),
    "mobilenetv2 800 project": (960, 320, 1, 1, 1, (25, 42)),
    "mobilenetv2 800 last": (320, 1280, 1, 1, 1, (25, 42)),
}

COLUMNS = list(itertools.product(("cpu", "cuda"), (False, True), (1, 2, 64)))
# For four kernels. Where channel and filter attention go (k: into the kernel, m: on the
# maps), and the form (s: slices, g: grouped, m: matmul, h: shared). From left to right
# cpu NCHW, cpu NHWC, cuda NCHW, cuda NHWC, each for a batch of 1, 2 and 64.
PLANS = """
resnet50 224 layer1 1x1     | km km km | ks ks ks | ks km km | ks km km
resnet50 224 layer1 3x3     | ks ks ks | ks ks ks | ks ks kg | ks ks kg
resnet50 224 layer2 3x3/2   | ks ks ks | ks ks ks | ks ks kg | ks ks kg
resnet50 224 layer3 1x1     | mm mm mm | mm mm mm | ms mm mm | ms mm mm
resnet50 224 layer4 3x3     | ms ms ms | ms ms ms | ms ms mg | ms ms mg
resnet50 224 layer4 1x1     | mm mm mm | mm mm mm | ms mm mm | ms mm mm
resnet50 800 layer1 1x1     | km km km | ks ks ks | ks km km | ks km km
resnet50 800 layer1 3x3     | ks ks ks | ks ks ks | ks ks kg | ks ks kg
resnet50 800 layer3 3x3     | ks ks ks | ks ks ks | ks ks kg | ks ks kg
resnet50 800 layer4 3x3     | ms ms ms | ms ms ms | ms ms mg | ms ms mg
resnet50 800 layer4 1x1     | km km km | ks ks ks | ks km km | ks km km
mobilenetv2 224 expand      | km km km | ks ks ks | ks km km | ks km km
mobilenetv2 224 depthwise   | ks ks ks | ks ks ks | ks kg kg | ks ks kg
mobilenetv2 224 depthwise/2 | ks ks ks | ks ks ks | ks kg kg | ks ks kg
mobilenetv2 224 project     | mm mm mm | mm mm mm | ms mm mm | ms mm mm
mobilenetv2 224 last        | mm mm mm | mm mm mm | ms mm mm | ms mm mm
mobilenetv2 800 expand      | km km km | ks ks ks | ks km km | ks km km
mobilenetv2 800 depthwise   | ks kg kg | ks ks ks | ks kg kg | ks ks kg
mobilenetv2 800 project     | km km km | ks ks ks | ks km km | ks km km
mobilenetv2 800 last        | km km km | ks ks ks | ks km km | ks km km
"""
# A bank of one 1x1 kernel serves the whole batch: where kernels are larger than maps,
# and the table above does not say matmul first.
SHARED = {
    "resnet50 224 layer3 1x1",
    "resnet50 224 layer4 1x1",
    "mobilenetv2 224 project",
    "mobilenetv2 224 last",
}
SCALES = {"k": "kernel", "m": "maps"}
FORMS = {"s": "slices", "g": "grouped", "m": "matmul", "h": "shared"}


def pinned():
    for line in PLANS.strip().splitlines():
        name, *cells = line.split("|")
        codes = " ".join(cells).split()
        for column, (scale, form) in zip(COLUMNS, codes, strict=True):
            yield name.strip(), *column, Plan(SCALES[scale], FORMS[form])


def case(name="resnet50 224 layer1 3x3", device="cpu", last=False, batch=2, **changes):
    channels, out_channels, k, stride, groups, size = LAYERS[name]
    padding = k // 2
    out = tuple((n + 2 * padding - k) // stride + 1 for n in size)
    built = Case(
        batch=batch,
        in_channels=channels,
        out_channels=out_channels,
        groups=groups,
        kernel_size=(k, k),
        padding=(padding, padding),
        in_size=size,
        out_size=out,
        per_sample=True,
        channels_last=last,
        device=device,
    )
    return built._replace(**changes)


def test_the_pinned_table_is_complete():
    rows = list(pinned())
    assert [row[0] for row in rows[:: len(COLUMNS)]] == list(LAYERS)
    assert len({plan for *_, plan in rows}) >= 5


@pytest.mark.parametrize("name", LAYERS)
def test_plans_of_representative_layers_are_these(name):
    rows = [row for row in pinned() if row[0] == name]
    assert len(rows) == len(COLUMNS)
    for _, device, last, batch, plan in rows:
        assert choose(case(name, device, last, batch)) == plan, (device, last, batch)


@pytest.mark.parametrize("name", LAYERS)
def test_a_bank_of_one_differs_only_where_its_kernel_serves_every_sample(name):
    for _, device, last, batch, plan in (row for row in pinned() if row[0] == name):
        one = case(name, device, last, batch)
        one = one._replace(per_sample=one.kernel_size != (1, 1))
        if name in SHARED and device == "cuda":
            plan = Plan("maps", "shared")
        assert choose(one) == plan, (device, last, batch)


def test_thresholds_are_these():
    depthwise = case("mobilenetv2 800 depthwise")
    assert choose(depthwise).convolve == "grouped"
    assert choose(depthwise._replace(out_size=(1, 1))).convolve == "grouped"
    assert choose(depthwise._replace(in_size=(100, 168))).convolve == "grouped"
    smaller = depthwise._replace(in_size=(100, 168), out_size=(100, 168))
    assert choose(smaller).convolve == "slices"
    small = case("resnet50 224 layer1 1x1", last=True, out_size=(28, 28))
    assert choose(small).convolve == "matmul"
    assert choose(small._replace(out_size=(28, 29))).convolve == "slices"
    few = case("resnet50 224 layer1 3x3", "cuda", batch=8)
    assert choose(few).convolve == "slices"
    assert choose(few._replace(batch=9)).convolve == "grouped"


def test_without_fast_matrix_products_a_gpu_convolves():
    slow = case("resnet50 224 layer1 1x1", "cuda", batch=64, fast_matmul=False)
    assert choose(slow).convolve == "grouped"
    assert choose(slow._replace(fast_matmul=True)).convolve == "matmul"


def test_the_same_case_has_the_same_plan_whatever_was_asked_before():
    cases = [case(n, d, last, b) for n, d, last, b, _ in pinned()]
    first = [choose(c) for c in cases]
    assert [choose(c) for c in reversed(cases)] == first[::-1]


def test_every_rule_has_a_case_and_the_last_one_holds_always():
    cases = [case(n, d, last, b) for n, d, last, b, _ in pinned()]
    cases += [c._replace(per_sample=c.kernel_size != (1, 1)) for c in cases]
    deciding = {next(r.when for r in RULES if r.holds(c)) for c in cases}
    assert deciding == {rule.when for rule in RULES}
    assert all(RULES[-1].holds(c) for c in cases)


def test_a_case_is_read_off_the_shapes_and_not_off_the_values():
    def read(fill):
        x = torch.full((3, 8, 9, 11), fill).to(memory_format=torch.channels_last)
        bank, kernel = torch.full((4, 12, 2, 3, 5), fill), torch.full((3, 4), fill)
        geometry = Geometry((2, 1), (1, 0), (1, 2), 4)
        return case_of(x, bank, kernel, Scales(None, None, None), geometry)

    assert read(0.0) == read(float("nan"))
    assert read(0.0) == Case(
        batch=3,
        in_channels=8,
        out_channels=12,
        groups=4,
        kernel_size=(3, 5),
        padding=(1, 0),
        in_size=(9, 11),
        out_size=(5, 3),
        per_sample=True,
        channels_last=True,
        device="cpu",
    )


@pytest.mark.parametrize("kernel, spatial, expected", [(1, 0, 1), (0, 1, 1), (0, 0, 0)])
def test_mixing_or_a_spatial_attention_makes_the_kernel_the_samples_own(
    kernel, spatial, expected
):
    x, bank = torch.zeros(2, 8, 5, 5), torch.zeros(1, 8, 8, 3, 3)
    scales = Scales(
        torch.ones(2, 8), torch.ones(2, 8), torch.ones(2, 9) if spatial else None
    )
    found = case_of(
        x,
        bank,
        torch.ones(2, 1) if kernel else None,
        scales,
        Geometry((1, 1), (1, 1), (1, 1), 1),
    )
    assert found.per_sample == bool(expected)


class TestForce:
    def test_overrules_the_table_and_restores_it(self):
        before = choose(case())
        with force(scale="maps", convolve="grouped"):
            assert choose(case()) == Plan("maps", "grouped")
        assert choose(case()) == before != Plan("maps", "grouped")

    def test_overrules_one_half_alone(self):
        before = choose(case())
        with force(scale="maps"):
            assert choose(case()) == Plan("maps", before.convolve)
        with force(convolve="grouped"):
            assert choose(case()) == Plan(before.scale, "grouped")

    def test_nests(self):
        with force(scale="maps"):
            with force(convolve="grouped"):
                assert choose(case()) == Plan("maps", "grouped")
            with force(scale="kernel"):
                assert choose(case()).scale == "kernel"
            assert choose(case()) == Plan("maps", "slices")

    def test_restores_after_an_exception(self):
        before = choose(case())
        with pytest.raises(KeyError), force(scale="maps", convolve="grouped"):
            raise KeyError
        assert choose(case()) == before

    @pytest.mark.parametrize("name", ["scale", "convolve"])
    def test_rejects_a_name_that_no_plan_has(self, name):
        before = choose(case())
        with pytest.raises(ValueError, match=f"{name} must be one of .*'fast'"):
            force(**{name: "fast"}).__enter__()
        assert choose(case()) == before
        assert not dispatch._forced

    @pytest.mark.parametrize(
        "convolve, impossible",
        [
            ("matmul", case()),
            ("matmul", case(kernel_size=(1, 1), padding=(1, 1))),
            ("matmul", case("mobilenetv2 224 depthwise", kernel_size=(1, 1))),
            ("shared", case()),
            ("grouped", case(batch=0)),
        ],
    )
    def test_leaves_what_cannot_be_computed_that_way_to_the_table(
        self, convolve, impossible
    ):
        before = choose(impossible)
        with force(convolve=convolve):
            assert choose(impossible) == before

    def test_of_a_shared_kernel_scales_the_maps(self):
        one = case("resnet50 224 layer1 1x1", per_sample=False)
        with force(scale="kernel", convolve="shared"):
            assert choose(one) == Plan("maps", "shared")
