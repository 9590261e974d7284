"""A BatchNorm in eval mode that its convolution applies: same function, same names."""

import copy
import io
import itertools
import pickle
import warnings

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import revert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook

from odconv_det import ODConv2d, fuse
from odconv_det.core.relu6 import OutputReLU6
from odconv_det.folding import eval_affine, fold_batch_norms
from odconv_det.plugin.backbones import ODMobileNetV2, ODResNet
from tests.calibrated import calibrate, pictures
from tests.plugin.test_backbones import small_mobilenet, small_resnet

SMALL = [small_resnet, small_mobilenet]
CONVS = [
    dict(kernel_size=3, padding=1),
    dict(kernel_size=1, bias=False),
    dict(kernel_size=3, padding=1, groups=8),
    dict(kernel_size=1, kernel_num=1, stride=2),
]


def conv(kernel_size=3, padding=1, **options):
    return ODConv2d(8, 8, kernel_size, padding=padding, **options)


def norm(**options):
    return nn.BatchNorm2d(8, **options)


def sequential(*modules, seed=0):
    """Eval mode, float64, every parameter and statistic drawn with this seed."""
    torch.manual_seed(seed)
    network = nn.Sequential(*modules).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_().mul_(0.3)
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 1.5)
    return network


class Opaque(nn.Module):
    """Calls its parts in a way that depends on the data, so it cannot be traced."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        ys = [part(x) for part in self.parts]
        return sum(ys) if x.sum() < float("inf") else x


def image(batch=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 8, 7, 6, generator=generator, dtype=torch.float64)


def folds(network):
    """The convolutions that apply a BatchNorm now."""
    return [
        name
        for name, module in network.named_modules()
        if getattr(module, "fold", None) is not None and hasattr(module, "attention")
        if module.fold.affine(module) is not None
    ]


def unfolded(network):
    """The same network, each module doing its own work."""
    clone = copy.deepcopy(network)
    for module in clone.modules():
        if hasattr(type(module), "fold"):
            module.fold = None
        elif isinstance(module, OutputReLU6):
            module.__class__ = nn.ReLU6
    assert folds(clone) == []
    return clone


def result(network, x):
    """Outputs and the gradients of everything that has one."""
    network.zero_grad()
    x = x.clone().requires_grad_()
    ys = network(x)
    ys = [ys] if isinstance(ys, torch.Tensor) else list(ys)
    generator = torch.Generator().manual_seed(2)
    grads = [torch.randn(y.shape, generator=generator).to(y) for y in ys]
    torch.autograd.backward(ys, grads)
    named = {name: p.grad for name, p in network.named_parameters()}
    return {**{f"y{i}": y.detach() for i, y in enumerate(ys)}, "x": x.grad, **named}


def assert_same(found, expected, tolerance):
    assert set(found) == set(expected)
    for name, reference in expected.items():
        if reference is None:
            assert found[name] is None
            continue
        largest = max(reference.abs().max().item(), 1e-6)
        error = (found[name] - reference).abs().max().item()
        assert error <= tolerance * largest, name


def assert_function_unchanged(network, x=None, tolerance=1e-10):
    """The network after folding computes what each of its modules says."""
    x = image() if x is None else x
    assert_same(result(network, x), result(unfolded(network), x), tolerance)


class TestFunction:
    @pytest.mark.parametrize("options", CONVS, ids=str)
    @pytest.mark.parametrize("affine", [True, False])
    def test_equals_convolution_and_norm_with_all_gradients(self, options, affine):
        options = {"padding": 0, **options}
        network = sequential(conv(**options), norm(affine=affine, eps=1e-2))
        expected = result(network, image())
        assert fold_batch_norms(network) == ["0"]
        assert folds(network) == ["0"]
        assert_same(result(network, image()), expected, 1e-11)

    @pytest.mark.parametrize("build", SMALL)
    def test_a_backbone_equals_the_unfolded_one_in_float64(self, build):
        torch.manual_seed(0)
        network = calibrate(build(norm_eval=True)).double().train()
        assert len(folds(network)) > 10
        x = pictures(2, 64).double()
        found, expected = result(network, x), result(unfolded(network), x)
        assert sum(g is not None for g in expected.values()) > 100
        assert_same(found, expected, 1e-9)

    @pytest.mark.parametrize("build", SMALL)
    def test_a_backbone_rounds_no_worse_than_the_unfolded_one_in_float32(self, build):
        torch.manual_seed(0)
        network = calibrate(build())
        exact = unfolded(network).double()
        x = pictures(2, 64)
        with torch.no_grad():
            maps = zip(network(x), unfolded(network)(x), exact(x.double()), strict=True)
            for y, plain, truth in maps:
                largest = truth.abs().max()
                rounding = (plain - truth).abs().max()
                assert rounding <= 1e-4 * largest
                assert (y - truth).abs().max() <= 2 * rounding + 1e-6 * largest

    def test_the_bank_may_move_to_channels_last(self):
        network = sequential(conv(), norm())
        expected = result(network, image())
        fold_batch_norms(network)
        network.to(memory_format=torch.channels_last)
        assert_same(result(network, image()), expected, 1e-11)

    def test_autocast_stays_close(self):
        network = sequential(conv(), norm(), nn.ReLU()).float()
        x = image().float()
        expected = network(x)
        fold_batch_norms(network)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = network(x)
        assert (y - expected).abs().max() <= 0.03 * expected.abs().max()

    def test_compiles_as_one_graph(self):
        network = sequential(conv(), norm(), nn.ReLU6())
        expected = result(network, image())
        fold_batch_norms(network)
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = result(compiled, image())
        found = {name.removeprefix("_orig_mod."): g for name, g in found.items()}
        assert_same(found, expected, 1e-10)


class TestAffine:
    @pytest.mark.parametrize("affine", [True, False])
    def test_is_what_the_norm_computes(self, affine):
        (module,) = sequential(norm(affine=affine, eps=0.1))
        scale, shift = eval_affine(module)
        expected = image() * scale[:, None, None] + shift[:, None, None]
        torch.testing.assert_close(expected, module(image()), rtol=1e-12, atol=1e-12)


class TestMode:
    def test_in_training_mode_nothing_is_folded_and_statistics_update(self):
        network = sequential(conv(), norm())
        plain = copy.deepcopy(network).train()
        fold_batch_norms(network)
        network.train()
        assert folds(network) == []
        assert_same(result(network, image()), result(plain, image()), 1e-12)
        before = sequential(conv(), norm())[1].running_mean
        assert not torch.equal(network[1].running_mean, before)
        for name, buffer in plain.named_buffers():
            assert torch.equal(network.get_buffer(name), buffer), name

    def test_in_eval_mode_the_statistics_stay(self):
        network = sequential(conv(), norm())
        fold_batch_norms(network)
        before = {name: b.clone() for name, b in network.named_buffers()}
        network(image())
        assert before
        for name, buffer in network.named_buffers():
            assert torch.equal(buffer, before[name]), name

    def test_follows_the_mode_back_and_forth(self):
        network = sequential(conv(), norm(momentum=0.9))
        plain = copy.deepcopy(network)
        fold_batch_norms(network)
        for mode in (True, False, False, True, False):
            network.train(mode)
            plain.train(mode)
            assert len(folds(network)) == (not mode)
            assert_same(result(network, image()), result(plain, image()), 1e-11)

    def test_only_the_norms_own_mode_counts(self):
        network = sequential(conv(), norm())
        fold_batch_norms(network)
        network.train()
        network[1].eval()
        assert folds(network) == ["0"]
        network.eval()
        network[1].train()
        assert folds(network) == []

    def test_new_statistics_and_parameters_are_seen_at_once(self):
        network = sequential(conv(), norm())
        fold_batch_norms(network)
        network(image())
        with torch.no_grad():
            for tensor in (*network[1].parameters(), network[1].running_mean):
                tensor.add_(1)
        network[1].running_var.mul_(3)
        assert_function_unchanged(network)
        network.load_state_dict(sequential(conv(), norm(), seed=5).state_dict())
        assert_function_unchanged(network)


class TestStateDict:
    @pytest.mark.parametrize("build", SMALL)
    def test_names_of_a_backbone_are_those_without_folding(self, build):
        backbone = build().eval()
        assert folds(backbone)
        names = list(backbone.state_dict())
        assert list(unfolded(backbone).state_dict()) == names
        assert not [name for name in names if "fold" in name]

    def test_names_of_any_network_do_not_change(self):
        network = sequential(conv(), norm(), nn.ReLU6())
        names = list(network.state_dict())
        modules = [name for name, _ in network.named_modules()]
        assert fold_batch_norms(network)
        assert list(network.state_dict()) == names
        assert [name for name, _ in network.named_modules()] == modules

    def test_norms_are_still_batch_norms(self):
        network = sequential(conv(), norm())
        fold_batch_norms(network)
        assert isinstance(network[1], nn.BatchNorm2d)
        assert isinstance(network[1], _BatchNorm)


class TestWhatIsFolded:
    @pytest.mark.parametrize(
        "build, count",
        [(lambda: ODResNet(50), 48), (ODMobileNetV2, 51)],
        ids=["resnet50", "mobilenetv2"],
    )
    def test_every_dynamic_convolution_of_a_backbone(self, build, count):
        with torch.device("meta"):
            network = build().eval()
        names = {n for n, m in network.named_modules() if isinstance(m, ODConv2d)}
        assert len(names) == count
        assert set(folds(network)) == names

    def test_sync_batch_norms_too(self):
        network = small_mobilenet(norm_cfg=dict(type="SyncBN")).eval()
        assert len(folds(network)) == 51
        assert all(
            isinstance(m, nn.SyncBatchNorm)
            for m in network.modules()
            if isinstance(m, _BatchNorm)
        )

    def test_checkpointed_blocks_too(self):
        network = small_resnet(with_cp=True).eval()
        assert len(folds(network)) == 16

    def test_a_relu6_behind_becomes_lighter_and_a_relu_stays(self):
        network = sequential(conv(), norm(), nn.ReLU6(), conv(), norm(), nn.ReLU())
        fold_batch_norms(network)
        assert type(network[2]) is OutputReLU6
        assert type(network[5]) is nn.ReLU
        assert_function_unchanged(network)

    def test_a_relu6_elsewhere_stays(self):
        network = sequential(nn.ReLU6(), conv(), nn.ReLU6(), norm(), nn.ReLU6())
        assert fold_batch_norms(network) == []
        kinds = [type(module) for module in network]
        assert kinds == [nn.ReLU6, ODConv2d, nn.ReLU6, nn.BatchNorm2d, nn.ReLU6]

    def test_static_convolutions_are_left_alone(self):
        network = sequential(nn.Conv2d(8, 8, 3), norm(), conv(), norm())
        assert fold_batch_norms(network) == ["2"]
        assert type(network[1]) is nn.BatchNorm2d

    @pytest.mark.parametrize(
        "behind",
        [
            nn.GroupNorm(2, 8),
            nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
            nn.BatchNorm2d(8, track_running_stats=False),
            nn.Sequential(nn.Identity(), nn.BatchNorm2d(8)),
        ],
        ids=lambda module: type(module).__name__,
    )
    def test_other_norms_or_places_are_left_alone(self, behind):
        network = sequential(conv(), behind)
        assert fold_batch_norms(network) == []
        assert_function_unchanged(network)

    @pytest.mark.parametrize("behind", [nn.BatchNorm1d(8), nn.BatchNorm3d(8)])
    def test_norms_that_refuse_maps_still_refuse_them(self, behind):
        network = sequential(conv(), behind)
        assert fold_batch_norms(network) == []
        with pytest.raises(ValueError, match="got 4D input"):
            network(torch.rand(2, 8, 6, 6))

    def test_finding_them_again_changes_nothing(self):
        network = sequential(conv(), norm(), nn.ReLU6())
        assert fold_batch_norms(network) == fold_batch_norms(network) == ["0"]
        assert folds(network) == ["0"]
        assert_function_unchanged(network)

    def test_parts_of_a_network_that_cannot_be_traced_are_folded(self):
        network = sequential(Opaque(nn.Sequential(conv(), norm()), nn.ReLU()))
        assert fold_batch_norms(network) == ["0.parts.0.0"]
        assert_function_unchanged(network)


class Twice(nn.Module):
    """The map between convolution and norm is used a second time."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = conv(), norm()

    def forward(self, x):
        y = self.conv(x)
        return y + self.norm(y)


class OneNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = conv(), conv(), norm()

    def forward(self, x):
        return self.norm(self.two(self.norm(self.one(x))))


class OneConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = conv(), norm(), norm()

    def forward(self, x):
        return self.two(self.conv(self.one(self.conv(x))))


class OneOfTwoCalls(nn.Module):
    """A norm that also sees another map than the convolution's."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = conv(), norm()

    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm(x)


class Repeated(nn.Module):
    """As heads of detectors are: the same pair for several maps."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = conv(), norm()

    def forward(self, x):
        return [self.norm(self.conv(y)) for y in (x, 2 * x)]


class TestSharing:
    @pytest.mark.parametrize("build", [Twice, OneNorm, OneConv, OneOfTwoCalls])
    def test_what_others_see_too_is_not_folded(self, build):
        network = sequential(build())
        assert fold_batch_norms(network) == []
        assert_function_unchanged(network)

    def test_a_pair_that_is_used_repeatedly_is_folded(self):
        network = sequential(Repeated())
        expected = result(network[0], image())
        assert fold_batch_norms(network) == ["0.conv"]
        assert_same(result(network[0], image()), expected, 1e-11)

    def test_a_convolution_in_two_parts_of_a_network_is_not_folded_wrongly(self):
        shared = conv()
        parts = [nn.Sequential(shared, norm()) for _ in range(2)]
        network = sequential(Opaque(*parts))
        expected = result(network, image())
        fold_batch_norms(network)
        assert_same(result(network, image()), expected, 1e-11)

    def test_a_norm_in_two_parts_of_a_network_is_not_folded_wrongly(self):
        shared = norm()
        parts = [nn.Sequential(conv(), shared) for _ in range(2)]
        network = sequential(Opaque(*parts))
        expected = result(network, image())
        fold_batch_norms(network)
        assert_same(result(network, image()), expected, 1e-11)

    def test_one_part_in_two_places_is_right_in_both(self):
        part = nn.Sequential(conv(), norm(), nn.ReLU6())
        network = sequential(Opaque(part, nn.Sequential(part, conv(), norm())))
        expected = result(network, image())
        fold_batch_norms(network)
        assert_same(result(network, image()), expected, 1e-11)


def replace_conv(network):
    network[0] = sequential(conv(kernel_num=2), seed=3)[0]


def replace_norm(network):
    network[1] = sequential(norm(), seed=3)[0]


def replace_both(network):
    replace_conv(network)
    replace_norm(network)


def wrap_conv(network):
    network[0] = nn.Sequential(network[0], nn.Softplus())


def wrap_norm(network):
    network[1] = nn.Sequential(nn.Softplus(), network[1])


def put_between(network):
    network.insert(1, nn.Softplus())


def swap_order(network):
    network[0], network[1] = network[1], network[0]


def remove_norm(network):
    network[1] = nn.Identity()


def to_sync(network):
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert converted is network
    assert isinstance(network[1], nn.SyncBatchNorm)


CHANGES = [
    replace_conv,
    replace_norm,
    replace_both,
    wrap_conv,
    wrap_norm,
    put_between,
    swap_order,
    remove_norm,
    to_sync,
]


class TestChangesAfterwards:
    @pytest.mark.parametrize("change", CHANGES)
    def test_undo_the_fold_safely(self, change):
        network, plain = sequential(conv(), norm()), sequential(conv(), norm())
        fold_batch_norms(network)
        network(image())
        change(network)
        change(plain)
        assert folds(network) == []
        assert_same(result(network, image()), result(plain, image()), 1e-11)

    @pytest.mark.parametrize("position", [0, 1])
    def test_by_a_wrapper_that_passes_attributes_on_undo_it_too(self, position):
        """As torch.compile, activation checkpointing and FSDP wrap modules."""

        class Wrapper(nn.Module):
            def __init__(self, module):
                super().__init__()
                self.module = module

            def __getattr__(self, name):
                try:
                    return super().__getattr__(name)
                except AttributeError:
                    return getattr(super().__getattr__("module"), name)

            def forward(self, x):
                return self.module(x)

        network, plain = sequential(conv(), norm()), sequential(conv(), norm())
        fold_batch_norms(network)
        network[position] = Wrapper(network[position])
        assert network[position].fold is not None
        torch.testing.assert_close(network(image()), plain(image()))

    def test_folds_anew_after_a_change(self):
        network = sequential(conv(), norm())
        fold_batch_norms(network)
        to_sync(network)
        assert fold_batch_norms(network) == ["0"]
        assert folds(network) == ["0"]
        assert isinstance(network[1], nn.SyncBatchNorm)
        assert_function_unchanged(network)

    def test_a_deep_copy_folds_its_own_norm(self):
        network = sequential(conv(), norm())
        fold_batch_norms(network)
        clone = copy.deepcopy(network)
        expected = network(image())
        with torch.no_grad():
            network[1].weight.zero_()
        assert folds(clone) == ["0"]
        assert clone[0].fold.parent is clone
        assert torch.equal(clone(image()), expected)

    @pytest.mark.parametrize("position", [0, 1])
    def test_a_deep_copy_of_one_alone_does_its_own_work(self, position):
        network, plain = sequential(conv(), norm()), sequential(conv(), norm())
        fold_batch_norms(network)
        clone, own = (copy.deepcopy(one[position]) for one in (network, plain))
        x = image() if position == 0 else plain[0](image())
        torch.testing.assert_close(clone(x), own(x))
        assert_same(result(network, image()), result(plain, image()), 1e-11)
        assert folds(network) == ["0"]

    @pytest.mark.parametrize("build", SMALL)
    def test_a_deep_copy_of_a_backbone_folds_as_much(self, build):
        network = build().eval()
        clone = copy.deepcopy(network)
        assert folds(clone) == folds(network) != []
        inside = set(clone.modules())
        assert all(m.fold.parent in inside for m in inside if getattr(m, "fold", None))

    def test_survives_being_saved_whole(self):
        network = sequential(conv(), norm(), nn.ReLU6())
        fold_batch_norms(network)
        file = io.BytesIO()
        torch.save(network, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        torch.testing.assert_close(loaded(image()), network(image()))
        assert fold_batch_norms(loaded) == folds(loaded) == ["0"]
        assert torch.equal(loaded(image()), network(image()))

    @pytest.mark.parametrize("position", [0, 1])
    def test_one_saved_alone_does_its_own_work(self, position):
        network, plain = sequential(conv(), norm()), sequential(conv(), norm())
        fold_batch_norms(network)
        loaded = pickle.loads(pickle.dumps(network[position]))
        x = image() if position == 0 else plain[0](image())
        torch.testing.assert_close(loaded(x), plain[position](x))

    def test_a_replica_does_not_use_the_parameters_of_the_original(self):
        """DataParallel makes shallow copies: the fold's parent is not the replica."""
        network = sequential(conv(), norm())
        fold_batch_norms(network)
        replicas = {m: m._replicate_for_data_parallel() for m in network.modules()}
        doubled = copy.deepcopy(network)
        for module, replica in replicas.items():
            for name, child in module._modules.items():
                replica._modules[name] = None if child is None else replicas[child]
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    setattr(replica, name, 2 * parameter.detach())
        with torch.no_grad():
            for parameter in doubled.parameters():
                parameter.mul_(2)
        torch.testing.assert_close(
            replicas[network](image()), doubled(image()), rtol=1e-11, atol=1e-11
        )


# Each changes what goes through, forward or back.
HOOKS = {
    "forward": lambda m: m.register_forward_hook(lambda m, x, y: y.sigmoid()),
    "forward pre": lambda m: m.register_forward_pre_hook(lambda m, x: x[0].sigmoid()),
    "backward": lambda m: m.register_full_backward_hook(
        lambda m, into, out: tuple(None if g is None else g.sigmoid() for g in into)
    ),
    "backward pre": lambda m: m.register_full_backward_pre_hook(
        lambda m, out: (out[0].sigmoid(),)
    ),
}


class TestHooks:
    @pytest.mark.parametrize("position", [0, 1])
    def test_a_hook_sees_the_maps_it_would_see_without_folding(self, position):
        network = sequential(conv(), norm())
        seen = []
        network[position].register_forward_hook(
            lambda module, args, output: seen.append((*args, output))
        )
        network(image())
        fold_batch_norms(network)
        network(image())
        before, after = seen
        for one, other in itertools.zip_longest(before, after):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("position", [0, 1])
    @pytest.mark.parametrize("kind", HOOKS)
    def test_a_hook_that_comes_later_changes_what_it_would_without(
        self, kind, position
    ):
        """And once it is gone, the convolution applies the BatchNorm again."""
        networks = [sequential(conv(), norm()) for _ in range(2)]
        fold_batch_norms(networks[0])
        handles = [HOOKS[kind](network[position]) for network in networks]
        folded, plain = (result(network, image()) for network in networks)
        assert_same(folded, plain, 1e-11)
        for handle in handles:
            handle.remove()
        assert folds(networks[0]) == ["0"]

    def test_a_hook_of_every_module_sees_what_it_would_without(self):
        networks = [sequential(conv(), norm()) for _ in range(2)]
        fold_batch_norms(networks[0])
        seen = []

        def note(module, args, output):
            if isinstance(module, ODConv2d | _BatchNorm):
                seen.append(output.detach())

        handle = register_module_forward_hook(note)
        try:
            for network in networks:
                network(image())
        finally:
            handle.remove()
        folded, plain = seen[: len(seen) // 2], seen[len(seen) // 2 :]
        assert len(folded) == 2
        for one, other in zip(folded, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_tracing_leaves_nothing_behind_in_the_network():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.last, self.calls = conv(), norm(), None, 0

        def forward(self, x):
            self.calls += 1
            self.last = self.norm(self.conv(x))
            return self.last

    network = sequential(Remembers())
    fold_batch_norms(network)
    assert network[0].last is None
    assert network[0].calls == 0
    y = network(image())
    assert network[0].last is y
    assert network[0].calls == 1


def test_a_folded_norm_is_found_by_the_names_of_its_kind():
    """MMEngine's init_cfg compares the names of a class and of its direct bases."""
    network = sequential(conv(), norm())
    fold_batch_norms(network)
    names = {base.__name__ for base in type(network[1]).__bases__}
    assert {"BatchNorm2d", "_BatchNorm"} <= names


def test_a_folded_norm_of_a_framework_survives_pickle():
    class_ = build_norm_layer(dict(type="SyncBN"), 8)[1].__class__
    assert class_ is not nn.SyncBatchNorm
    network = sequential(conv(), class_(8))
    assert fold_batch_norms(network) == ["0"]
    loaded = pickle.loads(pickle.dumps(network))
    assert fold_batch_norms(loaded) == folds(network) != []
    assert_same(result(loaded, image()), result(network, image()), 1e-11)


@pytest.mark.parametrize("build", SMALL)
def test_sync_norms_that_mmengine_has_reverted_fold_and_fuse(build):
    """As it does in every run of a single process."""
    network = calibrate(build()).double()
    state = network.state_dict()
    synced = build(norm_cfg=dict(type="SyncBN")).double().eval()
    synced.load_state_dict(state)
    reverted = revert_sync_batchnorm(synced).eval()
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in reverted.modules())
    x = pictures(2, 64).double()
    expected = network(x)
    assert fold_batch_norms(reverted) == folds(network) != []
    torch.testing.assert_close(reverted(x), expected)
    fused = fuse(reverted)
    assert not any(isinstance(m, _BatchNorm) for m in fused.modules())
    torch.testing.assert_close(fused(x), expected)
