"""What every dynamic convolution of this package promises its users."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.layers import DYNAMIC_CONVOLUTIONS, DyConv2d, DynamicConv2d, ODConv2d
from tests.layers.cases import GEOMETRIES, LAYERS, VARIANTS, build, image, make
from tests.layers.passes import run
from tests.needs import needs_compile
from tests.oracle import ORACLES, oracle

BANKS = ["ODConv2d", "CondConv2d", "DyConv2d"]
SIMPLE = dict(kernel_size=3, padding=1)
# Their kernel is the same for every sample.
STATIC = ["WEConv2d", "WEConv2d magnitude"]
READ_BY_MMCV = [
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
    *("groups", "transposed", "output_padding"),
]

INFLATABLE = [name for name in VARIANTS if name != "WEConv2d magnitude"]

each_layer = pytest.mark.parametrize("variant", LAYERS)
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def test_every_layer_is_tested():
    assert [variant.layer for variant in LAYERS.values()] == list(DYNAMIC_CONVOLUTIONS)
    assert set(DYNAMIC_CONVOLUTIONS) <= set(ORACLES)
    assert all(issubclass(layer, DynamicConv2d) for layer in DYNAMIC_CONVOLUTIONS)


class TestFunction:
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("geometry", GEOMETRIES)
    @each_variant
    def test_equals_the_oracle_sample_by_sample(self, variant, geometry, batch):
        layer = make(variant, **GEOMETRIES[geometry]).double().eval()
        x = image(batch, dtype=torch.float64)
        expected = oracle(layer, x)
        torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (6, 1), (32, 5)])
    @each_variant
    def test_takes_rectangular_and_single_pixel_inputs(self, variant, height, width):
        layer = make(variant, **SIMPLE).double().eval()
        x = image(2, height, width, dtype=torch.float64)
        assert layer(x).shape == (2, 12, height, width)
        torch.testing.assert_close(layer(x), oracle(layer, x), rtol=1e-11, atol=1e-11)

    @each_variant
    def test_a_sample_does_not_depend_on_its_batch(self, variant):
        layer = make(variant, **SIMPLE).double().eval()
        x = image(3, dtype=torch.float64)
        torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]), rtol=1e-12, atol=1e-12)

    @each_variant
    def test_is_linear_only_where_the_kernel_does_not_depend_on_the_input(
        self, variant
    ):
        layer = make(variant, **SIMPLE, bias=False).double().eval()
        x = image(2, dtype=torch.float64)
        error = (layer(2 * x) - 2 * layer(x)).abs().max() / layer(x).abs().max()
        assert error < 1e-12 if variant in STATIC else error > 1e-2

    @each_variant
    def test_trains_with_the_statistics_of_the_batch(self, variant):
        """Eval mode with what the norms saw in training computes the same."""
        layer = make(variant, **SIMPLE).double().train()
        norms = [m for m in layer.modules() if isinstance(m, _BatchNorm)]
        counts = {}
        for norm in norms:
            norm.momentum = 1.0
            norm.register_forward_hook(
                lambda norm, args, y: counts.update({norm: y.numel() // y.shape[1]})
            )
        x = image(3, dtype=torch.float64)
        y = layer(x)
        assert len(counts) == len(norms)
        for norm, count in counts.items():
            norm.running_var.mul_((count - 1) / count)  # unbiased, unlike what is used
        torch.testing.assert_close(y, oracle(layer.eval(), x), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("geometry", ["3x3", "depthwise", "strided 1x1"])
    @each_variant
    def test_gradients_are_those_of_finite_differences(self, variant, geometry):
        layer = make(variant, **GEOMETRIES[geometry]).double().eval()
        x = image(2, 4, 3, dtype=torch.float64).requires_grad_()
        names = [name for name, _ in layer.named_parameters()]
        values = [p.detach().clone().requires_grad_() for p in layer.parameters()]

        def call(x, *parameters):
            state = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(layer, state, (x,))

        assert torch.autograd.gradcheck(call, (x, *values), fast_mode=True)

    @each_variant
    def test_every_parameter_gets_a_gradient(self, variant):
        layer = build(variant, **SIMPLE).train()
        layer(image(3)).square().sum().backward()
        still = [n for n, p in layer.named_parameters() if p.grad is None]
        assert still == []
        zero = [n for n, p in layer.named_parameters() if not p.grad.any()]
        assert zero == []


class TestBatch:
    @pytest.mark.parametrize("geometry", ["3x3", "1x1", "depthwise"])
    @pytest.mark.parametrize("size", [(7, 9), (1, 1)])
    @each_variant
    @pytest.mark.filterwarnings("ignore:training with fewer than two samples")
    def test_of_one_trains(self, variant, size, geometry):
        layer = make(variant, **GEOMETRIES[geometry]).train()
        y = layer(image(1, *size))
        assert y.shape == (1, layer.out_channels, *size)
        assert y.isfinite().all()
        y.sum().backward()
        gradients = [p.grad for p in layer.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients)

    @pytest.mark.parametrize("mode", [True, False])
    @pytest.mark.parametrize("geometry", ["3x3", "1x1", "depthwise", "strided"])
    @each_variant
    @pytest.mark.filterwarnings("ignore:training with fewer than two samples")
    def test_of_none_gives_an_empty_output_and_zero_gradients(
        self, variant, geometry, mode
    ):
        layer = make(variant, **GEOMETRIES[geometry]).train(mode)
        expected = layer(image(2)).shape
        x = image(0).requires_grad_()
        y = layer(x)
        assert y.shape == (0, *expected[1:])
        y.sum().backward()
        assert x.grad.shape == x.shape
        assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


class TestCopies:
    @each_variant
    def test_a_deep_copy_is_independent(self, variant):
        layer = make(variant, **SIMPLE).eval()
        clone = copy.deepcopy(layer)
        expected = layer(image())
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
        assert torch.equal(clone(image()), expected)

    @pytest.mark.parametrize("grad", [True, False])
    @each_variant
    def test_a_replica_uses_its_own_parameters(self, variant, grad):
        """What DataParallel does: shallow copies that share no parameter."""
        layer = make(variant, **SIMPLE).eval()
        x = image()
        replicas = {m: m._replicate_for_data_parallel() for m in layer.modules()}
        for module, replica in replicas.items():
            for name, child in module._modules.items():
                replica._modules[name] = None if child is None else replicas[child]
            for name, parameter in module._parameters.items():
                value = None if parameter is None else 2 * parameter.detach()
                setattr(replica, name, value)
        doubled = copy.deepcopy(layer)
        with torch.no_grad():
            for parameter in doubled.parameters():
                parameter.mul_(2)
        with torch.set_grad_enabled(grad):
            y, expected, single = replicas[layer](x), doubled(x), layer(x)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(y, single, rtol=1e-2)

    @each_variant
    def test_survives_torch_save_whole(self, variant):
        layer = make(variant, **SIMPLE).eval()
        loaded = _saved(layer, weights_only=False)
        assert not loaded.training
        assert repr(loaded) == repr(layer)
        assert torch.equal(loaded(image()), layer(image()))

    @each_variant
    def test_survives_torch_save_as_state_dict(self, variant):
        layer, other = make(variant, **SIMPLE).eval(), build(variant, **SIMPLE).eval()
        assert not torch.equal(other(image()), layer(image()))
        other.load_state_dict(_saved(layer.state_dict(), weights_only=True))
        assert torch.equal(other(image()), layer(image()))


def _saved(content: object, weights_only: bool) -> object:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


class TestMemoryAndPrecision:
    @pytest.mark.parametrize("geometry", GEOMETRIES)
    @each_variant
    def test_moves_to_channels_last(self, variant, geometry):
        layer = make(variant, **GEOMETRIES[geometry]).eval()
        expected = layer(image())
        shapes = {k: v.shape for k, v in layer.state_dict().items()}
        layer.to(memory_format=torch.channels_last)
        y = layer(image().to(memory_format=torch.channels_last))
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        assert {k: v.shape for k, v in layer.state_dict().items()} == shapes
        assert isinstance(layer.weight, nn.Parameter)
        y.sum().backward()
        layer.to(memory_format=torch.channels_last)  # now with gradients to convert

    @pytest.mark.parametrize("batch", [1, 2])
    @pytest.mark.parametrize("out_channels", [1, 12])
    @pytest.mark.parametrize("x_too", [True, False])
    @each_variant
    @pytest.mark.filterwarnings("ignore:training with fewer than two samples")
    def test_gradients_do_not_depend_on_the_layout(
        self, variant, x_too, out_channels, batch
    ):
        """One sample or filter leaves open which layout it is in."""
        layer = make(variant, **SIMPLE, out_channels=out_channels).double()
        other = copy.deepcopy(layer).to(memory_format=torch.channels_last)
        x = image(batch, dtype=torch.float64).requires_grad_()
        grad = torch.randn_like(copy.deepcopy(layer)(x))
        expected = run(layer, x, grad)
        if x_too:
            x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
        found = run(other, x, grad)
        assert set(found) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("geometry", ["3x3", "1x1", "depthwise"])
    @each_variant
    def test_autocast_keeps_the_attention_in_full_precision(
        self, variant, geometry, dtype
    ):
        layer = make(variant, **GEOMETRIES[geometry]).train()
        seen = []
        layer.attention.register_forward_hook(lambda m, args, out: seen.append(out))
        x = image(4).requires_grad_()
        reference = layer(x)
        with torch.autocast("cpu", dtype=dtype):
            y = layer(x)
        assert y.dtype == dtype
        assert {a.dtype for a in _tensors(seen[1])} == {torch.float32}
        for one, other in zip(*map(_tensors, seen), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            y.float(), reference, rtol=0.03, atol=0.03 * reference.abs().max().item()
        )
        y.float().sum().backward()
        gradients = [x.grad, *(p.grad for p in layer.parameters())]
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)

    @each_variant
    def test_the_gradient_of_a_bias_is_not_summed_in_half_precision(self, variant):
        """Which ends at 65504."""
        layer, x = make(variant, kernel_size=1), torch.zeros(2, 8, 160, 256)
        layer.eval()

        def gradient(y):
            return torch.autograd.grad(y, layer.bias, torch.full_like(y, 2))[0]

        expected = gradient(layer(x))
        assert expected.abs().max() > 65504
        with torch.autocast("cpu", dtype=torch.float16):
            y = layer(x)
        assert y.dtype == torch.float16
        torch.testing.assert_close(gradient(y), expected, rtol=1e-3, atol=0)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @each_variant
    def test_a_half_precision_layer_runs_on_half_precision_input(self, variant, dtype):
        layer = make(variant, **SIMPLE).eval()
        reference = layer(image())
        y = copy.deepcopy(layer).to(dtype)(image(dtype=dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(
            y.float(), reference, rtol=0.1, atol=0.1 * reference.abs().max().item()
        )

    @needs_compile
    @pytest.mark.parametrize("training, batch", [(True, 1), (True, 2), (False, 2)])
    @each_layer
    def test_compiles_as_one_graph(self, variant, training, batch):
        layer = make(variant, **SIMPLE).train(training)
        eager = copy.deepcopy(layer)
        torch.compiler.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        y, expected = compiled(image(batch)), eager(image(batch))
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        y.sum().backward()
        expected.sum().backward()
        for ours, theirs in zip(layer.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)

    @needs_compile
    @pytest.mark.parametrize("variant", ["ODConv2d", "WeightNetConv2d"])
    def test_compiles_to_machine_code_under_autocast(self, variant):
        layer = make(variant, **SIMPLE).eval()
        compiled = torch.compile(layer, fullgraph=True)
        with torch.no_grad():
            torch.testing.assert_close(
                compiled(image()), layer(image()), rtol=1e-4, atol=1e-4
            )
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert compiled(image()).dtype == torch.bfloat16


def _tensors(attentions: Tensor | tuple[Tensor | None, ...]) -> list[Tensor]:
    several = isinstance(attentions, tuple)
    found = [a for a in (attentions if several else [attentions]) if a is not None]
    assert found
    return found


class TestArguments:
    @each_variant
    def test_positions_are_those_of_a_static_convolution(self, variant):
        cls, options = VARIANTS[variant]
        arguments = (8, 12, (3, 1), 2, (1, 0), 1, 4, False)
        layer, static = cls(*arguments, **options), nn.Conv2d(*arguments)
        x = image()
        assert layer(x).shape == static(x).shape
        assert layer.weight.shape[-4:] == static.weight.shape
        assert layer.bias is None
        for name in READ_BY_MMCV:
            assert getattr(layer, name) == getattr(static, name), name

    @each_layer
    def test_integers_of_numpy_are_integers(self, variant):
        cls, _ = LAYERS[variant]
        options = dict(kernel_num=np.int64(2)) if variant in BANKS else {}
        layer = cls(np.int64(8), np.int64(8), np.int32(3), **options)
        assert layer(image()).shape == (2, 8, 5, 7)
        assert type(layer.in_channels) is int

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (dict(padding="same"), "padding.*same"),
            (dict(padding=-1), "padding.*-1"),
            (dict(kernel_size=(3, 3, 3)), r"kernel_size.*\(3, 3, 3\)"),
            (dict(kernel_size=0), "kernel_size.*0"),
            (dict(kernel_size=(True, 3)), "kernel_size.*True"),
            (dict(stride=0), "stride.*0"),
            (dict(dilation=0), "dilation.*0"),
            (dict(groups=3), "groups=3.*in_channels=8"),
            (dict(groups=0), "groups.*0"),
            (dict(in_channels=0), "in_channels.*0"),
            (dict(in_channels=True), "in_channels.*True"),
            (dict(out_channels=-4), "out_channels.*-4"),
            (dict(padding_mode="reflect"), "padding_mode.*reflect"),
        ],
    )
    @each_layer
    def test_names_the_argument_it_does_not_support(self, variant, arguments, message):
        with pytest.raises(ValueError, match=message):
            build(variant, **{"kernel_size": 3, **arguments})

    @pytest.mark.parametrize("value", [0, -1, 2.5, True, "4", None])
    @pytest.mark.parametrize("variant", BANKS)
    def test_names_a_size_of_the_bank_it_does_not_support(self, variant, value):
        with pytest.raises(ValueError, match=f"kernel_num.*{value}"):
            build(variant, kernel_size=3, kernel_num=value)

    @pytest.mark.parametrize("value", [0, -0.5, 1.5, "half", float("nan")])
    @pytest.mark.parametrize("cls", [ODConv2d, DyConv2d])
    def test_names_a_reduction_it_does_not_support(self, cls, value):
        with pytest.raises(ValueError, match=f"reduction.*{value}"):
            cls(8, 8, 3, reduction=value)

    @pytest.mark.parametrize(
        "norm_cfg, message",
        [
            (dict(type="GN", num_groups=4), "norm_cfg.*GN"),
            ("BN", "norm_cfg.*BN"),
            (dict(eps=1e-3), "norm_cfg.*eps"),
            (dict(type="BN", groups=2), "norm_cfg.*groups"),
            (
                dict(type="BN", track_running_stats=False),
                "norm_cfg.*track_running_stats",
            ),
        ],
    )
    @pytest.mark.parametrize("variant", ["ODConv2d", "DCDConv2d", "CGConv2d"])
    def test_names_a_norm_it_does_not_support(self, variant, norm_cfg, message):
        with pytest.raises(ValueError, match=message):
            build(variant, kernel_size=3, norm_cfg=norm_cfg)

    @pytest.mark.parametrize(
        "kind, cls",
        [
            ("BN2d", nn.BatchNorm2d),
            ("SyncBN", nn.SyncBatchNorm),
            ("mmengine.SyncBN", nn.SyncBatchNorm),
            (nn.SyncBatchNorm, nn.SyncBatchNorm),
        ],
    )
    @pytest.mark.parametrize("variant", ["ODConv2d", "DCDConv2d", "CGConv2d"])
    @pytest.mark.filterwarnings("ignore:training with fewer than two samples")
    def test_the_norm_comes_from_norm_cfg_which_stays(self, variant, kind, cls):
        norm_cfg = dict(type=kind, eps=1e-3, requires_grad=False)
        before = dict(norm_cfg)
        layer = build(variant, kernel_size=1, norm_cfg=norm_cfg)
        norms = [m for m in layer.modules() if isinstance(m, _BatchNorm)]
        assert norm_cfg == before
        assert norms
        assert {(type(norm), norm.eps) for norm in norms} == {(cls, 1e-3)}
        assert not any(p.requires_grad for n in norms for p in n.parameters())
        # Alone, a norm may use its running statistics.
        layer.train()(image(1, 1, 1)).sum().backward()

    @pytest.mark.parametrize(
        "shape", [(8, 7, 9), (2, 3, 7, 9), (2, 8), (1, 2, 8, 7, 9)]
    )
    @each_layer
    def test_names_the_input_it_does_not_take(self, variant, shape):
        with pytest.raises(ValueError, match=r"\(B, 8, H, W\).*got"):
            make(variant, kernel_size=3)(torch.zeros(shape))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
    @each_variant
    def test_takes_no_integers_as_a_static_convolution(self, variant, dtype):
        x = torch.ones(2, 8, 7, 9).to(dtype)
        for layer in (nn.Conv2d(8, 12, 3), make(variant, kernel_size=3)):
            with pytest.raises(RuntimeError):
                layer(x)
            with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError):
                layer(x)

    @each_variant
    def test_shows_its_settings(self, variant):
        text = repr(build(variant, kernel_size=(3, 1), stride=2, bias=False))
        name, options = variant.split()[0], VARIANTS[variant].options
        parts = ["8, 12", "kernel_size=(3, 1)", "stride=(2, 2)", "bias=False"]
        parts += [f"{key}={value!r}" for key, value in options.items()]
        assert text.startswith(f"{name}(")
        for part in parts:
            assert part in text


def _bn(name: str, size: int) -> dict[str, tuple[int, ...]]:
    names = ("weight", "bias", "running_mean", "running_var")
    own = {f"{name}.{key}": (size,) for key in names}
    return {**own, f"{name}.num_batches_tracked": ()}


STATE = {
    "ODConv2d": {
        "weight": (4, 48, 32, 3, 3),
        "attention.fc.weight": (16, 32, 1, 1),
        **_bn("attention.bn", 16),
        "attention.channel_fc.weight": (32, 16, 1, 1),
        "attention.channel_fc.bias": (32,),
        "attention.filter_fc.weight": (48, 16, 1, 1),
        "attention.filter_fc.bias": (48,),
        "attention.spatial_fc.weight": (9, 16, 1, 1),
        "attention.spatial_fc.bias": (9,),
        "attention.kernel_fc.weight": (4, 16, 1, 1),
        "attention.kernel_fc.bias": (4,),
    },
    "CondConv2d": {
        "weight": (8, 48, 32, 3, 3),
        "attention.fc.weight": (8, 32, 1, 1),
        "attention.fc.bias": (8,),
    },
    "DyConv2d": {
        "weight": (4, 48, 32, 3, 3),
        "attention.fc1.weight": (8, 32, 1, 1),
        "attention.fc1.bias": (8,),
        "attention.fc2.weight": (4, 8, 1, 1),
        "attention.fc2.bias": (4,),
    },
    "DCDConv2d": {
        "weight": (48, 32, 3, 3),
        "attention.reduce.weight": (4, 32, 1, 1),
        "attention.gate.weight": (4, 4, 1, 1),
        "attention.fusion_fc.weight": (25, 4, 1, 1),
        "attention.filter_fc.weight": (48, 4, 1, 1),
        "fusion.squeeze.weight": (5, 32, 1, 1),
        **_bn("fusion.bn1", 5),
        **_bn("fusion.bn2", 5),
        "fusion.expand.weight": (48, 5, 1, 1),
    },
    "CGConv2d": {
        "weight": (48, 32, 3, 3),
        "attention.encode.weight": (5, 9, 1, 1),
        **_bn("attention.channel_bn", 32),
        "attention.channel_fc.weight": (9, 5, 1, 1),
        **_bn("attention.interact_bn", 32),
        "attention.interact.weight": (24, 16, 1, 1),
        **_bn("attention.filter_bn", 48),
        "attention.filter_fc.weight": (9, 5, 1, 1),
    },
    "WeightNetConv2d": {
        "weight": (48, 32, 3, 3),
        "attention.reduce.weight": (16, 32, 1, 1),
        "attention.reduce.bias": (16,),
        "attention.fc.weight": (96, 16, 1, 1),
        "attention.fc.bias": (96,),
    },
    "WEConv2d": {
        "weight": (48, 32, 3, 3),
        "attention.fc1.weight": (2, 32, 1, 1),
        "attention.fc1.bias": (2,),
        "attention.fc2.weight": (32, 2, 1, 1),
        "attention.fc2.bias": (32,),
    },
}


class TestStateDict:
    @each_layer
    def test_names_and_shapes_are_public(self, variant):
        layer = VARIANTS[variant].layer(32, 48, 3, bias=False)
        shapes = {k: tuple(v.shape) for k, v in layer.state_dict().items()}
        assert shapes == STATE[variant]

    @each_variant
    def test_a_bias_adds_itself_only(self, variant):
        with_bias, without = (build(variant, kernel_size=3, bias=b) for b in (1, 0))
        names = set(with_bias.state_dict()) - set(without.state_dict())
        assert names == {"bias"}
        assert with_bias.bias.shape == (12,)


# How far each weight of the attention spreads, for the sizes of STATE: Kaiming normal
# (fan_out), torch's default (uniform within 1 / sqrt(fan_in)), or a fixed number.
def _fan_out(rows: int) -> float:
    return (2 / rows) ** 0.5


def _default(columns: int) -> float:
    return (3 * columns) ** -0.5


SPREAD = {
    "ODConv2d": {
        "weight": _fan_out(48 * 9),
        "attention.fc.weight": _fan_out(16),
        "attention.channel_fc.weight": _fan_out(32),
        "attention.filter_fc.weight": _fan_out(48),
        "attention.spatial_fc.weight": _fan_out(9),
        "attention.kernel_fc.weight": _fan_out(4),
    },
    "CondConv2d": {"weight": _fan_out(48 * 9), "attention.fc.weight": 0.01},
    "DyConv2d": {
        "weight": (2 / (32 * 9)) ** 0.5,  # Kaiming uniform (fan_in)
        "attention.fc1.weight": _fan_out(8),
        "attention.fc2.weight": _fan_out(4),
    },
    "DCDConv2d": {
        "weight": _fan_out(48 * 9),
        "attention.reduce.weight": _default(32),
        "attention.gate.weight": _default(4),
        "attention.fusion_fc.weight": _default(4),
        "attention.filter_fc.weight": _default(4),
        "fusion.squeeze.weight": _fan_out(5),
        "fusion.expand.weight": _fan_out(48),
    },
    "CGConv2d": {
        "weight": _fan_out(48 * 9),
        "attention.encode.weight": _default(9),
        "attention.channel_fc.weight": _default(5),
        "attention.interact.weight": _default(16),
        "attention.filter_fc.weight": _default(5),
    },
    "WeightNetConv2d": {
        "weight": _fan_out(48 * 9),
        "attention.reduce.weight": 1 / 32,
        "attention.fc.weight": 1 / 16,
    },
    "WEConv2d": {
        "weight": _default(32 * 9),
        "attention.fc1.weight": _default(32),
        "attention.fc2.weight": _default(2),
    },
}


class TestInitialisation:
    @pytest.mark.parametrize("way", ["built", "reset_parameters", "init_weights"])
    @each_layer
    def test_is_that_of_the_paper(self, variant, way):
        torch.manual_seed(0)
        layers = []
        for _ in range(24):  # the smallest weight has 16 values
            layer = VARIANTS[variant].layer(32, 48, 3)
            if way != "built":
                with torch.no_grad():
                    for parameter in layer.parameters():
                        parameter.fill_(7.0)
                getattr(layer, way)()
            layers.append(layer)
        states = [dict(layer.named_parameters()) for layer in layers]
        weights = {name for name, p in states[0].items() if p.dim() > 1}
        assert weights == set(SPREAD[variant])
        for name in states[0]:
            values = torch.stack([state[name].detach() for state in states])
            if name in weights:
                std = SPREAD[variant][name]
                assert values.std().item() == pytest.approx(std, rel=0.12), name
                assert abs(values.mean().item()) < 0.12 * std, name
            else:
                norm = "bn" in name and name.endswith("weight")
                assert (values == (1.0 if norm else 0.0)).all(), name

    @pytest.mark.parametrize("variant", BANKS)
    def test_each_kernel_of_the_bank_has_a_fan_of_its_own(self, variant):
        layer = build(variant, in_channels=64, out_channels=64, kernel_size=3)
        expected = (2 / (64 * 9)) ** 0.5
        assert len(layer.weight) > 1
        for kernel in layer.weight:
            assert kernel.std().item() == pytest.approx(expected, rel=0.02)


class TestInflation:
    @pytest.mark.parametrize("noise", [0.0, 0.1])
    @pytest.mark.parametrize("geometry", GEOMETRIES)
    @pytest.mark.parametrize("variant", INFLATABLE)
    def test_computes_the_static_convolution(self, variant, geometry, noise):
        layer = make(variant, **GEOMETRIES[geometry]).double()
        arguments = {"in_channels": 8, "out_channels": 12, **GEOMETRIES[geometry]}
        static = nn.Conv2d(**arguments).double()
        layer.inflate_(static.weight, noise=noise)
        if static.bias is not None:
            layer.bias = static.bias
        for mode in (True, False):
            layer.train(mode)
            x = image(3, dtype=torch.float64)
            torch.testing.assert_close(layer(x), static(x), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("variant", BANKS)
    def test_noise_lets_the_bank_learn(self, variant):
        """Equal kernels get equal gradients for ever, and so do their attentions."""
        x, kernel = image(4), torch.randn(12, 8, 3, 3)

        def spread(noise):
            layer = build(variant, kernel_size=3)
            layer.inflate_(kernel, noise=noise)
            for parameter in layer.parameters():
                parameter.grad = None
            layer(x).square().sum().backward()
            last = [n for n, _ in layer.attention.named_parameters()][-1]
            return layer.attention.get_parameter(last).grad.std()

        assert spread(0.1) > 100 * spread(0.0)

    @pytest.mark.parametrize("variant", BANKS)
    def test_noise_is_relative_to_the_kernel_and_repeatable(self, variant):
        kernel = 5 * torch.randn(
            12, 8, 3, 3, generator=torch.Generator().manual_seed(0)
        )

        def bank(**options):
            layer = build(variant, kernel_size=3)
            layer.inflate_(kernel, noise=0.1, **options)
            return layer.weight.detach()

        one, same, other = (
            bank(generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        relative = (one - one.mean(0)).std() / one.mean(0).std()
        # Of n deviations that sum to zero, n - 1 are free.
        free = (1 - 1 / len(one)) ** 0.5
        assert relative.item() == pytest.approx(0.1 * free, rel=0.05)

    @pytest.mark.parametrize("variant", [name for name in LAYERS if name not in BANKS])
    def test_a_layer_without_a_bank_takes_no_noise(self, variant):
        layers = [build(variant, kernel_size=3) for _ in range(2)]
        for layer, noise in zip(layers, (0.0, 0.5), strict=True):
            layer.inflate_(torch.ones(12, 8, 3, 3), noise=noise)
        assert torch.equal(layers[0].weight, layers[1].weight)

    @each_layer
    def test_names_a_wrong_shape(self, variant):
        layer = build(variant, kernel_size=3)
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(ValueError, match=r"\(12, 8, 3, 3\).*\(12, 8, 1, 1\)"):
            layer.inflate_(torch.zeros(12, 8, 1, 1))
        after = layer.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())

    @pytest.mark.parametrize("variant", BANKS)
    def test_a_single_value_is_a_kernel_too(self, variant):
        layer = build(variant, in_channels=1, out_channels=1, kernel_size=1)
        layer.inflate_(torch.ones(1, 1, 1, 1), noise=0.1)
        x = torch.rand(2, 1, 3, 3)
        torch.testing.assert_close(layer(x), x)
