"""What SE, CBAM and ECA promise, and the norm that they stand behind."""

import copy
import io

import pytest
import torch
from torch import nn

from odconv_det.layers import CBAM, ECA, FEATURE_ATTENTIONS, SE, AttendedNorm
from tests.calibrated import pictures
from tests.layers.blocks import network
from tests.layers.cases import image, randomize
from tests.oracle import ORACLES, oracle

CASES = {
    "SE": (SE, dict(reduction=4)),
    "SE narrow": (SE, dict()),
    "CBAM": (CBAM, dict(reduction=4)),
    "ECA": (ECA, dict()),
    "ECA wide": (ECA, dict(kernel_size=5)),
    "ECA adaptive": (ECA, dict(kernel_size=None)),
}
each_case = pytest.mark.parametrize("case", CASES)
each_attention = pytest.mark.parametrize("attention", FEATURE_ATTENTIONS)


def make(case, channels=8):
    cls, options = CASES[case]
    torch.manual_seed(0)
    module = randomize(cls(channels, **options))
    with torch.no_grad():
        for name in ("weight", "spatial"):
            if hasattr(module, name):
                getattr(module, name).normal_()
    return module


def test_every_feature_attention_is_tested():
    assert {cls for cls, _ in CASES.values()} == set(FEATURE_ATTENTIONS)
    assert set(FEATURE_ATTENTIONS) <= set(ORACLES)


class TestFunction:
    @pytest.mark.parametrize("size", [(7, 9), (1, 1), (1, 9), (12, 10)])
    @pytest.mark.parametrize("batch", [1, 3])
    @each_case
    def test_equals_the_oracle_sample_by_sample(self, case, batch, size):
        module, x = make(case).double(), image(batch, *size, dtype=torch.float64)
        torch.testing.assert_close(module(x), oracle(module, x), rtol=1e-11, atol=1e-11)

    @each_case
    def test_gradients_are_those_of_finite_differences(self, case):
        module = make(case).double()
        x = image(2, 4, 3, dtype=torch.float64).requires_grad_()
        names = [name for name, _ in module.named_parameters()]
        values = [p.detach().clone().requires_grad_() for p in module.parameters()]

        def call(x, *parameters):
            state = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(module, state, (x,))

        assert torch.autograd.gradcheck(call, (x, *values), fast_mode=True)

    @each_case
    def test_an_empty_batch_gives_an_empty_output(self, case):
        module = make(case)
        y = module(image(0))
        assert y.shape == (0, 8, 7, 9)
        y.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in module.parameters())

    @each_case
    def test_the_input_stays(self, case):
        x = image()
        make(case)(x)
        assert torch.equal(x, image())

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
    @each_case
    def test_integers_are_refused(self, case, dtype):
        with pytest.raises(RuntimeError, match=f"floating-point input, got {dtype}"):
            make(case)(image().to(dtype))

    @each_case
    def test_torch_sees_through_it(self, case):
        """Traced it can be saved, and derived forward, as torch's own layers."""
        module, x = make(case), image()
        with torch.no_grad():
            torch.jit.save(torch.jit.trace(module, x), io.BytesIO())
        y, slope = torch.func.jvp(module, (x,), (torch.ones_like(x),))
        assert slope.shape == y.shape


class TestMemoryAndPrecision:
    @each_case
    def test_works_in_channels_last(self, case):
        module = make(case)
        expected = module(image())
        module.to(memory_format=torch.channels_last)
        y = module(image().to(memory_format=torch.channels_last))
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @each_case
    def test_autocast_keeps_precision_and_type_of_the_map(self, case, dtype):
        module = make(case)
        half = image().to(dtype)
        expected = module(half.float())
        with torch.autocast("cpu", dtype=dtype):
            y = module(half)
            assert module(image()).dtype == torch.float32
        assert y.dtype == dtype
        # What the attention rounds to this type once, and the product.
        eps = torch.finfo(dtype).eps
        assert (y.float() - expected).abs().max() <= 3 * eps * expected.abs().max()

    @each_case
    def test_gradients_are_not_summed_in_half_precision(self, case):
        """Which ends at 65504."""
        module = make(case)
        x = image(1, 96, 128)

        def gradients(y):
            grad = torch.full_like(y, 64)
            return torch.autograd.grad(y, list(module.parameters()), grad)

        expected = gradients(module(x))
        with torch.autocast("cpu", dtype=torch.float16):
            y = module(x.half())
        for own, reference in zip(gradients(y), expected, strict=True):
            assert (own - reference).abs().max() <= 0.01 * reference.abs().max()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @each_case
    def test_works_in_half_precision(self, case, dtype):
        module = make(case)
        expected = module(image())
        y = module.to(dtype)(image(dtype=dtype))
        assert y.dtype == dtype
        assert (y.float() - expected).abs().max() <= 0.05 * expected.abs().max()

    @each_attention
    def test_compiles_as_one_graph(self, attention):
        module = make(attention.__name__)
        torch.compiler.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(image()), module(image()))

    @each_case
    def test_copies_are_independent(self, case):
        module = make(case)
        expected = module(image())
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        copies = [copy.deepcopy(module), torch.load(file, weights_only=False)]
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        assert all(torch.equal(clone(image()), expected) for clone in copies)


class TestSettings:
    @pytest.mark.parametrize(
        "module, shapes",
        [
            (SE(64), {"fc1.weight": (4, 64, 1, 1), "fc2.weight": (64, 4, 1, 1)}),
            (SE(8), {"fc1.weight": (1, 8, 1, 1), "fc2.weight": (8, 1, 1, 1)}),
            (
                CBAM(64),
                {
                    "spatial": (1, 2, 7, 7),
                    "fc1.weight": (4, 64, 1, 1),
                    "fc2.weight": (64, 4, 1, 1),
                },
            ),
            (ECA(64), {"weight": (1, 1, 3)}),
            (ECA(64, 7), {"weight": (1, 1, 7)}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_names_and_shapes_are_public(self, module, shapes):
        assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == shapes

    @pytest.mark.parametrize(
        "channels, size",
        [(8, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
    )
    def test_eca_sees_more_neighbours_among_more_channels(self, channels, size):
        # int(log2(C) / 2 + 1 / 2), and one more if that is even
        assert ECA(channels, kernel_size=None).weight.shape == (1, 1, size)

    @pytest.mark.parametrize("way", ["built", "reset"])
    @pytest.mark.parametrize(
        "attention, spread",
        [
            (SE, {"fc1.weight": (3 * 64) ** -0.5, "fc2.weight": 12**-0.5}),
            (
                CBAM,
                {
                    "fc1.weight": (3 * 64) ** -0.5,
                    "fc2.weight": 12**-0.5,
                    "spatial": (2 / 49) ** 0.5,
                },
            ),
            (ECA, {"weight": 9**-0.5}),
        ],
    )
    def test_starts_as_in_the_paper(self, attention, spread, way):
        torch.manual_seed(0)
        states = []
        for _ in range(200):
            module = AttendedNorm(nn.BatchNorm2d(64), attention(64))
            if way == "reset":
                with torch.no_grad():
                    for parameter in module.parameters():
                        parameter.fill_(7.0)
                module.init_weights()
            states.append(dict(module.attention.named_parameters()))
        assert set(states[0]) == set(spread)
        for name, std in spread.items():
            values = torch.stack([state[name].detach() for state in states])
            assert values.std().item() == pytest.approx(std, rel=0.1)

    @pytest.mark.parametrize(
        "build, message",
        [
            (lambda: SE(64, reduction=0), "reduction.*0"),
            (lambda: SE(64, reduction=2.5), "reduction.*2.5"),
            (lambda: CBAM(64, reduction=-1), "reduction.*-1"),
            (lambda: ECA(64, kernel_size=4), "kernel_size must be odd.*4"),
            (lambda: ECA(64, kernel_size=0), "kernel_size.*0"),
            (lambda: SE(0), "channels.*0"),
            (lambda: CBAM(2.5), "channels.*2.5"),
            (lambda: ECA(-1), "channels.*-1"),
            (lambda: ECA(0, kernel_size=None), "channels.*0"),
        ],
    )
    def test_names_the_argument_it_does_not_support(self, build, message):
        with pytest.raises(ValueError, match=message):
            build()


class TestAttendedNorm:
    def norm(self):
        return randomize(nn.Sequential(nn.BatchNorm2d(8)))[0]

    @each_case
    def test_is_the_attention_of_the_norm(self, case):
        norm, attention = self.norm().double().eval(), make(case).double()
        x = image(3, dtype=torch.float64)
        module = AttendedNorm(norm, attention)
        torch.testing.assert_close(module(x), oracle(attention, norm(x)))

    def test_its_names_are_public(self):
        net = network(None, attend=SE)
        names = {name.removeprefix("layer1.0.") for name in net.state_dict()}
        assert {"bn3.norm.weight", "bn3.norm.running_var"} <= names
        assert {"bn3.attention.fc1.weight", "bn3.attention.fc2.weight"} <= names
        assert "bn3.weight" not in names
        assert not [name for name in names if name.startswith("bn1.attention")]

    @each_attention
    def test_it_acts_on_a_block_before_the_shortcut_is_added(self, attention):
        net = network(None, attend=attention).double()
        block = net.layer1[1]
        x = torch.rand(2, 16, 6, 5, dtype=torch.float64)
        y = block.bn1(block.conv1(x)).relu()
        y = block.bn2(block.conv2(y)).relu()
        y = oracle(block.bn3.attention, block.bn3.norm(block.conv3(y)))
        torch.testing.assert_close(block(x.clone()), (y + x).relu())

    @each_case
    def test_inflated_it_is_the_norm_alone(self, case):
        norm, attention = self.norm().double().eval(), make(case).double()
        x = image(3, dtype=torch.float64)
        expected = norm(x)
        module = AttendedNorm(norm, attention)
        module.inflate_()
        torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)

    @each_attention
    def test_inflated_a_network_computes_what_it_did_without(self, attention):
        static, net = network(None).double(), network(None, attend=attention).double()
        names = {
            name: name.replace("bn3.", "bn3.norm.") for name in static.state_dict()
        }
        state = {names[name]: value for name, value in static.state_dict().items()}
        assert net.load_state_dict(state, strict=False).unexpected_keys == []
        for block in net.layer1:
            block.bn3.inflate_()
        x = pictures(2, 20).double()
        for y, expected in zip(net(x), static(x), strict=True):
            torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)

    @each_attention
    def test_drawing_the_attention_anew_leaves_the_norm(self, attention):
        module = AttendedNorm(self.norm(), make(attention.__name__))
        before = copy.deepcopy(module.state_dict())
        module.init_weights()
        changed = {
            name
            for name, value in module.state_dict().items()
            if not torch.equal(value, before[name])
        }
        assert changed == {name for name in before if name.startswith("attention.")}
