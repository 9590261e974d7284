"""fuse() on networks of plain torch: whatever they do, they do it afterwards too."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from odconv_det import ODConv2d
from odconv_det.fusion import fuse
from odconv_det.fusion.layout import LAYOUTS
from odconv_det.fusion.modules import Fused

CHANNELS = 8


def conv(kernel_size=3, **options):
    return nn.Conv2d(
        *(CHANNELS, CHANNELS, kernel_size), padding=kernel_size // 2, **options
    )


def dynamic(kernel_size=3, **options):
    return ODConv2d(
        *(CHANNELS, CHANNELS, kernel_size), padding=kernel_size // 2, **options
    )


def norm():
    return nn.BatchNorm2d(CHANNELS)


class Network(nn.Module):
    """The modules that the networks below are made of; a subclass says how."""

    def __init__(self, layer=conv):
        super().__init__()
        self.a, self.b, self.c = layer(), layer(), layer()
        self.one = layer(1)
        self.bn_a, self.bn_b, self.bn_c = norm(), norm(), norm()
        self.relu, self.relu_ = nn.ReLU(), nn.ReLU(inplace=True)
        self.relu6, self.same, self.drop = nn.ReLU6(), nn.Identity(), nn.Dropout()
        self.scale = nn.Parameter(torch.ones(CHANNELS, 1, 1))


class Plain(Network):
    def forward(self, x):
        return self.bn_b(self.b(self.relu_(self.bn_a(self.a(x)))))


class BasicBlock(Network):
    def forward(self, x):
        y = self.relu_(self.bn_a(self.a(x)))
        y = self.bn_b(self.b(y))
        y += x
        return self.relu_(y)


class TwoBlocks(Network):
    def forward(self, x):
        x = self.relu(self.bn_a(self.a(x)))
        x = self.relu(self.bn_b(self.b(self.one(x))) + x)
        return self.relu(x + self.bn_c(self.c(x)))


class Projected(Network):
    def forward(self, x):
        shortcut = self.bn_c(self.one(x))
        return self.relu_(self.bn_b(self.b(self.relu(self.a(x)))) + shortcut)


class Functional(Network):
    def forward(self, x):
        x = F.relu(self.bn_a(self.a(x)))
        x = torch.relu(self.bn_b(self.b(x)))
        x = torch.add(self.c(x).relu(), x)
        return F.relu6(self.one(x)) + F.relu(self.c(x), inplace=True)


class SelfSum(Network):
    def forward(self, x):
        y = self.a(x)
        return y + y


class OwnInput(Network):
    """The shortcut is what the convolution reads."""

    def forward(self, x):
        a = self.a(x)
        return F.relu(self.bn_b(self.b(a)) + a)


class Alias(Network):
    def forward(self, x):
        a = self.a(x)
        b = self.same(a)
        return self.b(self.c(x)) + a, b


class DroppedAlias(Network):
    def forward(self, x):
        a = self.a(x)
        b = self.drop(a)
        return self.b(self.c(x)) + a, b


class Slice(Network):
    def forward(self, x):
        a = self.a(x)
        b = a[:, :4]
        return self.b(self.c(x)) + a, b


class View(Network):
    def forward(self, x):
        a = self.a(x)
        b = a.flatten(2)
        return self.relu(self.b(self.c(x)) + a), b


class Returned(Network):
    def forward(self, x):
        a = self.relu(self.a(x))
        b = self.relu(self.b(a) + a)
        return a, b, self.relu(self.c(b) + b)


class ShortcutUsedLater(Network):
    def forward(self, x):
        a = self.a(x)
        y = self.relu(self.b(self.c(x)) + a)
        return self.one(a) + y


class ChangedInput(Network):
    def forward(self, x):
        x = x * 1
        y = self.a(x)
        r = self.relu_(x)
        return self.bn_a(y), r


class ChangedInputCall(Network):
    def forward(self, x):
        x = x * 1
        y = self.a(x)
        r = F.relu_(x)
        return self.bn_a(y) + r


class ChangedThroughView(Network):
    def forward(self, x):
        x = x * 1
        y = self.a(x)
        x.view(-1).zero_()
        return self.bn_a(y) + x


class ChangedByOut(Network):
    def forward(self, x):
        x = x * 1
        y = self.a(x)
        torch.add(x, 1, out=x)
        return self.bn_a(y) + x


class ChangedByAddition(Network):
    def forward(self, x):
        x = x * 1
        y = self.a(x)
        x += 1
        return self.bn_a(y) + x


class ChangedShortcut(Network):
    def forward(self, x):
        r = self.c(x)
        y = self.bn_a(self.a(x)) + r
        r.mul_(0)
        return F.relu(y), r


class IntoShortcut(Network):
    def forward(self, x):
        r = self.c(x)
        before = r
        r += self.a(x)
        return r, before


class IntoShortcutUnassigned(Network):
    def forward(self, x):
        r = self.c(x)
        r.add_(self.a(x))
        return r


class InPlaceUnassigned(Network):
    def forward(self, x):
        y = self.bn_a(self.a(x))
        F.relu_(y)
        return y * 2


class UsedTwice(Network):
    def forward(self, x):
        return self.c(self.bn_b(self.a(self.relu(self.bn_a(self.a(x))))))


class NormUsedTwice(Network):
    def forward(self, x):
        return self.bn_a(self.b(self.relu(self.bn_a(self.a(x)))))


class PairUsedTwice(Network):
    def forward(self, x):
        return self.c(self.bn_a(self.a(self.relu(self.bn_a(self.a(x))))))


class BetweenUsed(Network):
    def forward(self, x):
        y = self.a(x)
        z = self.bn_a(y)
        return self.relu(z) + y, z


class Gate(Network):
    """Squeeze and excite: a sum with what has one pixel, on either side."""

    def forward(self, x):
        pooled = x.mean((2, 3), keepdim=True)
        return self.relu(self.a(x) + pooled), self.relu(self.one(pooled) + x)


class Constants(Network):
    def forward(self, x):
        y = self.relu(self.a(x) + 1) + self.relu(2 + self.b(x))
        return self.relu(self.c(y) + self.scale)


class Weighted(Network):
    def forward(self, x):
        return F.relu(torch.add(self.a(x), x, alpha=2)), torch.add(self.b(x), other=x)


class Halves(Network):
    def __init__(self, layer=conv):
        super().__init__(layer)
        self.narrow = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return self.relu(self.a(torch.cat([self.narrow(a) + b, a], 1)))


class Views(Network):
    def forward(self, x):
        wide = x[:, :1].expand(-1, CHANNELS, -1, -1)
        y = self.relu(self.a(x.transpose(2, 3))).transpose(2, 3)
        return self.relu(self.b(wide)) + self.c(x[:, :, ::2, ::2]).mean() + y


class OtherActivations(Network):
    def forward(self, x):
        x = F.leaky_relu(self.bn_a(self.a(x)), 0.1)
        return torch.sigmoid(self.b(x)) + F.hardtanh(self.c(x), -1, 6)


class PreActivation(Network):
    def forward(self, x):
        y = self.a(self.relu(self.bn_a(x)))
        y = self.b(self.relu(self.bn_b(y)))
        return x + y


NETWORKS = [
    Plain,
    BasicBlock,
    TwoBlocks,
    Projected,
    Functional,
    SelfSum,
    OwnInput,
    Alias,
    DroppedAlias,
    Slice,
    View,
    Returned,
    ShortcutUsedLater,
    ChangedInput,
    ChangedInputCall,
    ChangedThroughView,
    ChangedByOut,
    ChangedByAddition,
    ChangedShortcut,
    IntoShortcut,
    IntoShortcutUnassigned,
    InPlaceUnassigned,
    UsedTwice,
    NormUsedTwice,
    PairUsedTwice,
    BetweenUsed,
    Gate,
    Constants,
    Weighted,
    Halves,
    Views,
    OtherActivations,
    PreActivation,
]


def prepared(network):
    """In eval mode, with statistics, scales and biases away from 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "num_batches" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if "running_var" in name:
                tensor.copy_(0.5 + noise.abs())
            elif tensor.dim() >= 4:
                tensor.copy_(
                    noise / tensor[0].numel() ** 0.5 * 4 ** (tensor.dim() == 5)
                )
            else:
                tensor.copy_(0.5 * noise + ("weight" in name))
    return network.eval()


def image(batch=2, height=11, width=14):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, CHANNELS, height, width, generator=generator)


@torch.no_grad()
def outputs(network, *args, **options):
    ys = network(*args, **options)
    return [ys] if isinstance(ys, torch.Tensor) else list(ys)


def assert_close(ys, expected):
    assert len(ys) == len(expected) > 0
    for y, reference in zip(ys, expected, strict=True):
        assert y.shape == reference.shape
        if y.numel():
            assert (y - reference).abs().max() <= 1e-4 * reference.abs().max()


def fused_modules(network):
    return [module for module in network.modules() if isinstance(module, Fused)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("layer", [conv, dynamic], ids=["static", "dynamic"])
@pytest.mark.parametrize("cls", NETWORKS)
def test_equals_the_network_before(cls, layer, layout):
    torch.manual_seed(0)
    network = prepared(cls(layer))
    fused = fuse(copy.deepcopy(network), layout=layout)
    assert fused_modules(fused)
    for batch, height, width in ((2, 11, 14), (1, 2, 3), (0, 5, 5)):
        x = image(batch, height, width)
        expected = [y.clone() for y in outputs(network, x.clone())]
        before = x.clone()
        assert_close(outputs(fused, x), expected)
        assert_close(outputs(fused, x), expected)
        assert torch.equal(x, before)


def joined(network):
    return [module for module in fused_modules(network) if module.joined]


@pytest.mark.parametrize(
    "cls, activations, count",
    [
        (Plain, {"relu", "none"}, 0),
        (BasicBlock, {"relu"}, 1),
        (TwoBlocks, {"relu", "none"}, 2),
        (Projected, {"relu", "none"}, 1),
        (OwnInput, {"relu", "none"}, 1),
    ],
)
def test_what_can_be_joined_is(cls, activations, count):
    network = nn.Sequential(cls()).eval()
    fuse(network)
    assert {module.activation for module in fused_modules(network)} == activations
    assert len(joined(network)) == count


class TestOtherWaysIn:
    """Parts of a fused network that are called by themselves."""

    def features(self):
        torch.manual_seed(0)
        stages = nn.Sequential(TwoBlocks(), BasicBlock())

        class Features(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.stages = nn.Sequential(conv(), norm()), stages
                self.head = nn.Linear(CHANNELS, 3)

            def forward_features(self, x):
                return self.stages(self.stem(x))

            def forward(self, x):
                return self.head(self.forward_features(x).mean((2, 3)))

        return prepared(Features())

    @pytest.mark.parametrize(
        "call",
        [
            lambda network, x: network(x),
            lambda network, x: network.forward_features(x),
            lambda network, x: nn.Sequential(*list(network.children())[:-1])(x),
            lambda network, x: network.stages[1](network.stages[0](network.stem(x))),
        ],
        ids=["forward", "another method", "children", "one by one"],
    )
    def test_compute_what_they_did(self, call):
        network, x = self.features(), image()
        expected = outputs(lambda x: call(network, x), x)
        fuse(network)
        assert_close(outputs(lambda x: call(network, x), x), expected)

    def test_a_part_in_two_places_is_right_in_both(self):
        class Opaque(nn.Module):
            def __init__(self):
                super().__init__()
                part = nn.Sequential(conv(), norm(), nn.ReLU())
                self.one, self.two = part, nn.Sequential(part, conv())

            def forward(self, x):
                return self.one(x) + self.two(x) if x.sum() < 1e9 else x

        network = prepared(Opaque())
        expected = outputs(network, image())
        assert_close(outputs(fuse(network), image()), expected)

    def test_a_part_may_be_followed_by_different_activations(self):
        class Opaque(nn.Module):
            def __init__(self):
                super().__init__()
                part = nn.Sequential(conv(), norm())
                self.one = nn.Sequential(part, nn.ReLU())
                self.two = nn.Sequential(part, nn.Sigmoid())

            def forward(self, x):
                return (self.one(x), self.two(x)) if x.sum() < 1e9 else x

        network = prepared(Opaque())
        expected = outputs(network, image())
        assert_close(outputs(fuse(network), image()), expected)

    @pytest.mark.parametrize("layer", [conv, dynamic])
    @pytest.mark.parametrize("shared", ["convolution", "norm"])
    def test_weights_shared_between_parts_are_right_in_both(self, shared, layer):
        class Heads(nn.Module):
            def __init__(self):
                super().__init__()
                one, two = layer(), norm()
                self.heads = nn.ModuleList(
                    nn.Sequential(one, norm(), nn.ReLU())
                    if shared == "convolution"
                    else nn.Sequential(layer(), two, nn.ReLU())
                    for _ in range(2)
                )

            def forward(self, x):
                return [head(x) for head in self.heads if x.sum() < 1e9]

        network = prepared(Heads())
        expected = outputs(network, image())
        assert len(expected) == 2
        assert_close(outputs(fuse(network), image()), expected)


class TestArguments:
    def test_an_optional_tensor_may_be_absent_or_given(self):
        class Masked(Network):
            def forward(self, x, mask=None):
                y = self.bn_a(self.a(x))
                return F.relu(y if mask is None else y * mask)

        network = prepared(Masked())
        mask = image()[:, :1].sigmoid()
        expected = [outputs(network, image()), outputs(network, image(), mask)]
        fuse(network)
        assert_close(outputs(network, image()), expected[0])
        assert_close(outputs(network, image(), mask), expected[1])
        assert_close(outputs(network, image(), mask=mask), expected[1])

    def test_a_flag_may_be_given(self):
        class Flagged(Network):
            def forward(self, x, activate=True):
                y = self.bn_a(self.a(x)) + x
                return F.relu(y) if activate else y

        network = prepared(Flagged())
        expected = [outputs(network, image(), flag) for flag in (True, False)]
        fuse(network)
        assert_close(outputs(network, image()), expected[0])
        assert_close(outputs(network, image(), True), expected[0])
        assert_close(outputs(network, image(), False), expected[1])

    def test_images_may_come_in_a_tuple(self):
        class Last(Network):
            def forward(self, x):
                if isinstance(x, tuple | list):
                    x = x[-1]
                return F.relu(self.bn_a(self.a(x)) + x)

        network = prepared(Last())
        expected = outputs(network, image())
        fuse(network)
        assert_close(outputs(network, image()), expected)
        assert_close(outputs(network, (None, image())), expected)

    def test_an_image_may_come_without_a_batch(self):
        network = prepared(nn.Sequential(conv(), nn.ReLU(), conv(1)))
        expected = outputs(network, image()[0])
        assert expected[0].dim() == 3
        assert_close(outputs(fuse(network), image()[0]), expected)


class TestHooks:
    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_are_called_with_the_maps_of_before(self, position):
        network = prepared(nn.Sequential(conv(), norm(), nn.ReLU(), conv()))
        seen = []
        network[position].register_forward_hook(
            lambda module, args, output: seen.append((args[0].clone(), output.clone()))
        )
        expected = outputs(network, image())
        assert_close(outputs(fuse(network), image()), expected)
        before, after = seen
        assert_close(after, before)

    def test_may_change_what_a_module_gives(self):
        network = prepared(nn.Sequential(nn.Sequential(conv(), norm()), nn.ReLU()))
        network[0].register_forward_hook(lambda module, args, output: output + 1)
        expected = outputs(network, image())
        assert_close(outputs(fuse(network), image()), expected)

    def test_of_the_network_itself_stay(self):
        network, seen = prepared(nn.Sequential(conv(), norm())), []
        network.register_forward_hook(lambda *args: seen.append(1))
        outputs(fuse(network), image())
        assert seen == [1]


class TestWhatIsLeftAlone:
    @pytest.mark.parametrize(
        "module",
        [
            nn.Conv2d(8, 8, 3, padding="same"),
            nn.Conv2d(8, 8, 3, padding="valid"),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
            nn.ConvTranspose2d(8, 8, 3, padding=1),
            nn.utils.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)),
            nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)),
            nn.LazyConv2d(8, 3, padding=1),
        ],
        ids=lambda module: f"{type(module).__name__} {getattr(module, 'padding', '')}",
    )
    def test_other_convolutions_stay_right(self, module):
        network = nn.Sequential(module, norm(), nn.ReLU(), conv()).eval()
        expected = outputs(network, image())
        assert_close(outputs(fuse(network), image()), expected)

    @pytest.mark.parametrize(
        "behind",
        [
            nn.BatchNorm2d(8, track_running_stats=False),
            nn.BatchNorm2d(8, affine=False),
            nn.BatchNorm2d(8, eps=0.5),
            nn.InstanceNorm2d(8),
            nn.GroupNorm(2, 8),
            nn.SyncBatchNorm(8),
        ],
        ids=str,
    )
    def test_other_norms_stay_right(self, behind):
        network = prepared(nn.Sequential(conv(), behind, nn.ReLU()))
        expected = outputs(network, image())
        assert_close(outputs(fuse(network), image()), expected)

    def test_volumes_stay_right(self):
        class Volumes(Network):
            def __init__(self):
                super().__init__()
                self.volume = nn.Conv3d(1, 1, 3, padding=1)

            def forward(self, x):
                return self.volume(self.relu(self.a(x)).unsqueeze(1))

        network = prepared(Volumes())
        expected = outputs(network, image())
        assert_close(outputs(fuse(network), image()), expected)

    def test_state_that_forward_keeps_is_kept_afterwards(self):
        class Remembers(Network):
            calls = 0

            def forward(self, x):
                self.calls += 1
                self.last = self.relu(self.bn_a(self.a(x)))
                return self.last

        network = prepared(nn.Sequential(conv(), Remembers(), conv()))
        expected = outputs(network, image())
        fuse(network)
        ys = outputs(network, image())
        assert_close(ys, expected)
        assert network[1].calls == 2
        assert isinstance(network[1].last, torch.Tensor)
