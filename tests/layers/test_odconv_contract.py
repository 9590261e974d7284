"""What every layer of this package promises its users."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from odconv_det import ODConv2d, set_temperature
from odconv_det.layers import norm
from tests.oracle import odconv2d_oracle

GEOMETRIES = {
    "3x3": dict(kernel_size=3, padding=1),
    "1x1": dict(kernel_size=1),
    "strided": dict(kernel_size=3, stride=2, padding=1),
    "stride pair": dict(kernel_size=3, stride=(2, 1), padding=(1, 0)),
    "dilated": dict(kernel_size=3, padding=2, dilation=2),
    "grouped": dict(kernel_size=3, padding=1, groups=4),
    "depthwise": dict(out_channels=8, kernel_size=3, padding=1, groups=8),
    "rectangular kernel": dict(kernel_size=(1, 3), padding=(0, 1)),
    "5x5": dict(kernel_size=5, padding=2),
}


def make(kernel_num=4, **geometry):
    torch.manual_seed(0)
    layer = ODConv2d(
        **{"in_channels": 8, "out_channels": 12, **geometry}, kernel_num=kernel_num
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.dim() == 1:  # biases and BatchNorm away from 0 and 1
                parameter.uniform_(0.5, 1.5)
        layer.attention.bn.running_mean.normal_()
        layer.attention.bn.running_var.uniform_(0.5, 1.5)
    return layer


def image(batch=2, height=7, width=9, **options):
    return torch.randn(
        batch, 8, height, width, generator=torch.Generator().manual_seed(1)
    ).to(**options)


@pytest.mark.parametrize("kernel_num", [1, 4])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_the_oracle_sample_by_sample(geometry, batch, kernel_num):
    layer = make(kernel_num, **GEOMETRIES[geometry]).double().eval()
    x = image(batch, dtype=torch.float64)
    torch.testing.assert_close(
        layer(x), odconv2d_oracle(layer, x), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (6, 1), (32, 5)])
def test_takes_rectangular_and_single_pixel_inputs(height, width):
    layer = make(kernel_size=3, padding=1).double().eval()
    x = image(2, height, width, dtype=torch.float64)
    assert layer(x).shape == (2, 12, height, width)
    torch.testing.assert_close(layer(x), odconv2d_oracle(layer, x))


def test_a_sample_does_not_depend_on_its_batch():
    layer = make(kernel_size=3, padding=1).eval()
    x = image(3)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    layer = make(2, kernel_size=3, padding=1).double().eval()
    x = image(2, 4, 3, dtype=torch.float64).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def call(x, *parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, state, (x,))

    assert torch.autograd.gradcheck(call, (x, *values), fast_mode=True)


class TestBatchOfOne:
    @pytest.fixture(autouse=True)
    def not_said_yet(self):
        norm._say_once.cache_clear()

    def test_trains_with_the_running_statistics(self):
        layer = make(kernel_size=3, padding=1).train()
        before = layer.attention.bn.running_mean.clone()
        with pytest.warns(UserWarning, match="running statistics"):
            y = layer(image(1))
        y.sum().backward()
        assert all(p.grad is not None for p in layer.parameters())
        assert torch.equal(layer.attention.bn.running_mean, before)
        torch.testing.assert_close(y, layer.eval()(image(1)))

    def test_is_said_once(self):
        layers = [make(kernel_size=3).train(), make(kernel_size=1).train()]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for layer in layers * 2:
                layer(image(1))
        assert len([w for w in caught if "running statistics" in str(w.message)]) == 1

    def test_a_batch_of_two_updates_the_statistics(self):
        layer = make(kernel_size=3, padding=1).train()
        before = layer.attention.bn.running_mean.clone()
        layer(image(2))
        assert not torch.equal(layer.attention.bn.running_mean, before)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("geometry", ["3x3", "1x1", "depthwise", "strided"])
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(geometry, mode):
    layer = make(**GEOMETRIES[geometry]).train(mode)
    expected = layer(image(2)).shape
    y = layer(image(0))
    assert y.shape == (0, *expected[1:])
    y.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_a_deep_copy_is_independent():
    layer = make(kernel_size=3, padding=1).eval()
    clone = copy.deepcopy(layer)
    expected = layer(image())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert torch.equal(clone(image()), expected)


def test_a_replica_uses_its_own_parameters():
    """What DataParallel does on each device: shallow copies that share no parameter."""
    layer = make(kernel_size=3, padding=1).eval()
    x = image()
    modules = list(layer.modules())
    copies = {id(m): m._replicate_for_data_parallel() for m in modules}
    for module in modules:
        replica = copies[id(module)]
        for name, child in module._modules.items():
            replica._modules[name] = None if child is None else copies[id(child)]
        for name, parameter in module._parameters.items():
            value = None if parameter is None else 2 * parameter.detach()
            setattr(replica, name, value)
    doubled = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2)
    assert torch.equal(copies[id(layer)](x), doubled(x))
    assert not torch.equal(copies[id(layer)](x), layer(x))


def test_survives_torch_save_whole_and_as_state_dict():
    layer = make(kernel_size=3, padding=1).eval()
    for content, weights_only in ((layer, False), (layer.state_dict(), True)):
        file = io.BytesIO()
        torch.save(content, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=weights_only)
        if weights_only:
            other = make(kernel_size=3, padding=1).eval()
            other.reset_parameters()
            other.load_state_dict(loaded)
            loaded = other
        assert torch.equal(loaded(image()), layer(image()))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_moves_to_channels_last(geometry):
    layer = make(**GEOMETRIES[geometry]).eval()
    expected = layer(image())
    names = list(layer.state_dict())
    layer.to(memory_format=torch.channels_last)
    y = layer(image().to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert list(layer.state_dict()) == names
    assert layer.weight.shape[:2] == (4, layer.out_channels)
    assert isinstance(layer.weight, nn.Parameter)
    y.sum().backward()
    layer.to(memory_format=torch.channels_last)  # now there is a gradient to convert


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("geometry", ["3x3", "1x1", "depthwise"])
def test_autocast_keeps_the_attention_in_full_precision(geometry, dtype):
    layer = make(**GEOMETRIES[geometry]).train()
    seen = []
    layer.attention.register_forward_hook(lambda m, args, out: seen.append(out))
    x = image(4).requires_grad_()
    reference = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    assert y.dtype == dtype
    assert all(a.dtype == torch.float32 for a in seen[1] if a is not None)
    torch.testing.assert_close(
        y.float(), reference, rtol=0.03, atol=0.03 * reference.abs().max().item()
    )
    y.float().sum().backward()
    gradients = [x.grad, *(p.grad for p in layer.parameters())]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_layer_runs_on_half_precision_input(dtype):
    layer = make(kernel_size=3, padding=1).eval()
    y = copy.deepcopy(layer).to(dtype)(image(dtype=dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer(image()), rtol=0.1, atol=0.3)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_compiles_as_one_graph(training, batch):
    layer = make(kernel_size=3, padding=1).train(training)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, expected = compiled(image(batch)), eager(image(batch))
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    y.sum().backward()
    expected.sum().backward()
    for ours, theirs in zip(layer.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_compiles_to_machine_code_under_autocast():
    layer = make(kernel_size=3, padding=1).eval()
    compiled = torch.compile(layer, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(image()), layer(image()), rtol=1e-4, atol=1e-4
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert compiled(image()).dtype == torch.bfloat16


class TestTemperature:
    def test_changes_a_whole_network(self):
        network = nn.Sequential(make(kernel_size=3, padding=1), nn.ReLU()).eval()
        before = network(image())
        assert set_temperature(network, 30) == 1
        assert network[0].attention.temperature == 30
        assert not torch.allclose(network(image()), before)
        set_temperature(network, 1.0)
        assert torch.equal(network(image()), before)

    def test_equals_the_oracle(self):
        layer = make(kernel_size=3, padding=1).double().eval()
        set_temperature(layer, 30.0)
        x = image(dtype=torch.float64)
        torch.testing.assert_close(layer(x), odconv2d_oracle(layer, x))

    @pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
    def test_must_be_positive(self, value):
        with pytest.raises(ValueError, match=f"temperature .*{value}"):
            set_temperature(make(kernel_size=3), value)
        with pytest.raises(ValueError, match="temperature"):
            ODConv2d(8, 8, 3, temperature=value)

    def test_is_one_by_default_and_not_in_the_state_dict(self):
        layer = make(kernel_size=3)
        assert layer.attention.temperature == 1.0
        assert not [key for key in layer.state_dict() if "temperature" in key]


class TestStateDict:
    def test_has_the_names_and_shapes_of_the_release(self):
        layer = ODConv2d(32, 48, 3, bias=False, kernel_num=4, reduction=0.75)
        shapes = {k: tuple(v.shape) for k, v in layer.state_dict().items()}
        assert shapes == {
            "weight": (4, 48, 32, 3, 3),
            "attention.fc.weight": (24, 32, 1, 1),
            "attention.bn.weight": (24,),
            "attention.bn.bias": (24,),
            "attention.bn.running_mean": (24,),
            "attention.bn.running_var": (24,),
            "attention.bn.num_batches_tracked": (),
            "attention.channel_fc.weight": (32, 24, 1, 1),
            "attention.channel_fc.bias": (32,),
            "attention.filter_fc.weight": (48, 24, 1, 1),
            "attention.filter_fc.bias": (48,),
            "attention.spatial_fc.weight": (9, 24, 1, 1),
            "attention.spatial_fc.bias": (9,),
            "attention.kernel_fc.weight": (4, 24, 1, 1),
            "attention.kernel_fc.bias": (4,),
        }

    @pytest.mark.parametrize(
        "arguments, absent",
        [
            (dict(kernel_size=1), {"spatial_fc"}),
            (dict(kernel_size=3, kernel_num=1), {"kernel_fc"}),
            (dict(kernel_size=3, out_channels=8, groups=8), {"filter_fc"}),
            (dict(kernel_size=1, kernel_num=1), {"spatial_fc", "kernel_fc"}),
        ],
    )
    def test_has_no_head_for_a_constant_attention(self, arguments, absent):
        layer = ODConv2d(**{"in_channels": 8, "out_channels": 12, **arguments})
        heads = {"channel_fc", "filter_fc", "spatial_fc", "kernel_fc"}
        present = {key.split(".")[1] for key in layer.state_dict() if "_fc" in key}
        assert present == heads - absent

    def test_the_attention_is_at_least_sixteen_wide(self):
        assert ODConv2d(8, 8, 1).attention.fc.weight.shape[0] == 16
        assert ODConv2d(512, 8, 1).attention.fc.weight.shape[0] == 32


def test_each_kernel_of_the_bank_is_initialised_with_its_own_fan():
    torch.manual_seed(0)
    layer = ODConv2d(64, 128, 3, kernel_num=4)
    expected = (2 / (128 * 9)) ** 0.5  # Kaiming normal, fan_out
    for kernel in layer.weight:
        assert kernel.std().item() == pytest.approx(expected, rel=0.02)


def test_sync_batch_norm_through_norm_cfg():
    layer = ODConv2d(
        8, 8, 3, norm_cfg=dict(type="SyncBN", eps=1e-3, requires_grad=False)
    )
    assert isinstance(layer.attention.bn, nn.SyncBatchNorm)
    assert layer.attention.bn.eps == 1e-3
    assert not any(p.requires_grad for p in layer.attention.bn.parameters())
    layer.train()(image(1)).sum().backward()  # alone, it may use running statistics


@pytest.mark.parametrize("kind", ["SyncBN", "mmengine.SyncBN", nn.SyncBatchNorm])
def test_norm_cfg_names_the_norm_as_mmcv_does(kind):
    bn = ODConv2d(8, 8, 3, norm_cfg=dict(type=kind)).attention.bn
    assert isinstance(bn, nn.SyncBatchNorm)
    bn = ODConv2d(8, 8, 3, norm_cfg=dict(type="BN2d", eps=1e-3)).attention.bn
    assert type(bn) is nn.BatchNorm2d
    assert bn.eps == 1e-3


def test_takes_the_integers_of_numpy():
    layer = ODConv2d(np.int64(8), np.int64(8), np.int32(3), kernel_num=np.int64(2))
    assert layer(image()).shape == (2, 8, 5, 7)
    assert type(layer.in_channels) is int


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(kernel_num=0), "kernel_num.*0"),
        (dict(kernel_num=2.5), "kernel_num.*2.5"),
        (dict(reduction=0), "reduction.*0"),
        (dict(reduction=1.5), "reduction.*1.5"),
        (dict(padding="same"), "padding.*same"),
        (dict(padding=-1), "padding.*-1"),
        (dict(kernel_size=(3, 3, 3)), r"kernel_size.*\(3, 3, 3\)"),
        (dict(kernel_size=0), "kernel_size.*0"),
        (dict(stride=0), "stride.*0"),
        (dict(dilation=0), "dilation.*0"),
        (dict(groups=3), "groups=3.*in_channels=8"),
        (dict(groups=0), "groups.*0"),
        (dict(in_channels=0), "in_channels.*0"),
        (dict(out_channels=-4), "out_channels.*-4"),
        (dict(in_channels=True), "in_channels.*True"),
        (dict(kernel_size=(True, 3)), "kernel_size.*True"),
        (dict(reduction="half"), "reduction.*half"),
        (dict(padding_mode="reflect"), "padding_mode.*reflect"),
        (dict(norm_cfg=dict(type="GN", num_groups=4)), "norm_cfg.*GN"),
        (dict(norm_cfg="BN"), "norm_cfg.*BN"),
        (dict(norm_cfg=dict(eps=1e-3)), "norm_cfg.*eps"),
        (dict(norm_cfg=dict(type="BN", groups=2)), "norm_cfg.*groups"),
        (
            dict(norm_cfg=dict(type="BN", track_running_stats=False)),
            "norm_cfg.*track_running_stats",
        ),
    ],
)
def test_names_the_argument_it_does_not_support(arguments, message):
    with pytest.raises(ValueError, match=message):
        ODConv2d(**{"in_channels": 8, "out_channels": 8, "kernel_size": 3, **arguments})


@pytest.mark.parametrize("shape", [(8, 7, 9), (2, 3, 7, 9), (2, 8)])
def test_names_the_input_it_does_not_take(shape):
    with pytest.raises(ValueError, match=r"\(B, 8, H, W\).*got"):
        make(kernel_size=3)(torch.zeros(shape))


def test_shows_its_settings():
    text = repr(ODConv2d(8, 12, 3, kernel_num=2))
    for part in ("8, 12", "kernel_size=(3, 3)", "kernel_num=2", "reduction=0.0625"):
        assert part in text
