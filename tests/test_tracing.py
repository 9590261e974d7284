"""The parts of a network that can be traced: as large as possible, none lost."""

import operator

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn

from odconv_det import ODConv2d
from odconv_det.tracing import calls_of, traced_parts
from tests.plugin.test_backbones import small_mobilenet, small_resnet


def block():
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())


class DataDependent(nn.Module):
    """What it does depends on the values, which a trace does not have."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.parts:
            if x.sum() < float("inf"):
                x = part(x)
        return x


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.relu = block(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.body(x) + x)


def names(network):
    return [part.name for part in traced_parts(network.eval())]


def called(network):
    """For each part, the modules that its graph calls."""
    return {
        part.name: [n.target for n in part.graph.nodes if n.op == "call_module"]
        for part in traced_parts(network.eval())
    }


class TestParts:
    def test_a_whole_network_is_one(self):
        network = nn.Sequential(block(), Residual(), nn.AdaptiveAvgPool2d(1))
        found = called(network)
        assert list(found) == [""]
        leaves = [n for n, m in network.named_modules() if not list(m.children())]
        assert found[""] == leaves

    @pytest.mark.parametrize("build", [small_resnet, small_mobilenet])
    def test_a_backbone_is_one(self, build):
        network = build()
        found = called(network)
        assert list(found) == [""]
        layers = [n for n, m in network.named_modules() if isinstance(m, ODConv2d)]
        assert set(layers) <= set(found[""])
        assert len(found[""]) == len(set(found[""])) or build is small_resnet

    def test_what_depends_on_the_data_is_opaque_and_its_children_are_parts(self):
        network = nn.Sequential(block(), DataDependent(block(), Residual()), block())
        found = called(network)
        assert list(found) == ["", "1.parts.0", "1.parts.1"]
        assert found[""] == ["0.0", "0.1", "0.2", "1", "2.0", "2.1", "2.2"]
        assert found["1.parts.0"] == ["0", "1", "2"]
        assert found["1.parts.1"] == ["body.0", "body.1", "body.2", "relu"]

    def test_an_opaque_module_within_an_opaque_module_is_looked_into(self):
        network = DataDependent(DataDependent(block()), block())
        assert names(network) == ["parts.0.parts.0", "parts.1"]

    def test_a_root_that_depends_on_the_data_gives_its_children(self):
        assert names(DataDependent(block(), nn.Conv2d(4, 4, 1))) == ["parts.0"]

    def test_a_module_without_children_has_none(self):
        assert names(nn.Conv2d(4, 4, 1)) == []
        assert names(ODConv2d(4, 4, 1).attention.fc) == []

    def test_what_an_opaque_attempt_recorded_is_forgotten(self):
        class Late(DataDependent):
            def forward(self, x):
                return super().forward(self.parts[0](x) + 1)

        found = called(nn.Sequential(block(), Late(block())))
        assert list(found) == ["", "1.parts.0"]
        assert found[""] == ["0.0", "0.1", "0.2", "1"]

    @pytest.mark.parametrize("build", [small_resnet, small_mobilenet])
    def test_activation_checkpointing_hides_nothing(self, build):
        plain, saving = called(build()), called(build(with_cp=True))
        assert list(saving) == [""]
        assert saving == plain

    def test_shapes_may_be_computed_with(self):
        class Up(nn.Module):
            def __init__(self):
                super().__init__()
                self.down, self.up = nn.Conv2d(4, 4, 3, 2), block()

            def forward(self, x):
                y = self.up(self.down(x))
                return x + F.interpolate(y, size=x.shape[2:])

        assert names(nn.Sequential(block(), Up())) == [""]

    def test_a_dynamic_layer_is_one_call(self):
        found = called(nn.Sequential(ODConv2d(4, 4, 3), nn.BatchNorm2d(4)))
        assert found == {"": ["0", "1"]}


class TestHooks:
    @pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
    def test_a_module_with_a_hook_stays_one_call(self, kind):
        network = nn.Sequential(block(), Residual(), block())
        getattr(network[1], f"register_{kind}")(lambda *args: None)
        found = called(network)
        assert list(found) == ["", "1"]
        assert found[""] == ["0.0", "0.1", "0.2", "1", "2.0", "2.1", "2.2"]

    def test_a_hook_is_not_called_while_tracing(self):
        network, seen = nn.Sequential(block(), Residual()), []
        for module in (network, network[1], network[1].body):
            module.register_forward_hook(lambda *args: seen.append(args))
        assert names(network) == ["", "1", "1.body"]
        assert seen == []


class TestArguments:
    @pytest.mark.parametrize("flag", [True, False])
    def test_flags_are_traced_with_their_defaults(self, flag):
        class Flagged(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.act = nn.Conv2d(4, 4, 1), nn.ReLU()

            def forward(self, x, activate=flag):
                return self.act(self.conv(x)) if activate else self.conv(x)

        assert called(Flagged()) == {"": ["conv", "act"] if flag else ["conv"]}

    def test_an_optional_argument_is_absent(self):
        class Masked(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(4, 4, 1)

            def forward(self, x, mask=None):
                y = self.conv(x)
                return y if mask is None else y * mask

        (part,) = traced_parts(Masked())
        assert not [node for node in part.graph.nodes if node.target is operator.mul]

    @pytest.mark.parametrize(
        "options, expected",
        [
            ({}, ["conv", "bn", "activate"]),
            (dict(act_cfg=None), ["conv", "bn"]),
            (dict(norm_cfg=None), ["conv", "activate"]),
            (dict(order=("act", "conv", "norm")), ["activate", "conv", "bn"]),
            (dict(order=("norm", "act", "conv")), ["bn", "activate", "conv"]),
            (
                dict(padding=1, padding_mode="reflect"),
                ["padding_layer", "conv", "bn", "activate"],
            ),
        ],
        ids=str,
    )
    def test_conv_modules_of_mmcv_are_seen_through(self, options, expected):
        module = ConvModule(4, 4, 3, **{"norm_cfg": dict(type="BN"), **options})
        assert called(module) == {"": expected}
        network = nn.Sequential(module, block())
        inner = [f"0.{name}" for name in expected]
        assert called(network) == {"": [*inner, "1.0", "1.1", "1.2"]}


class TestSideEffects:
    @pytest.mark.parametrize("build", [small_resnet, lambda: Residual()])
    def test_tracing_changes_nothing(self, build):
        torch.manual_seed(0)
        network = build().eval()
        x = torch.randn(2, 3 if build is small_resnet else 4, 32, 32)
        before = {name: vars(m).copy() for name, m in network.named_modules()}
        state = {name: v.clone() for name, v in network.state_dict().items()}
        expected = network(x)
        assert names(network)
        assert before == {name: vars(m).copy() for name, m in network.named_modules()}
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name]), name
        pairs = zip(expected, network(x), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)

    def test_a_forward_that_remembers_is_opaque_and_remembers_nothing_of_it(self):
        class Remembers(Residual):
            last = None

            def forward(self, x):
                self.last = super().forward(x)
                return self.last

        network = nn.Sequential(block(), Remembers())
        assert list(called(network)) == ["", "1.body"]
        assert "last" not in vars(network[1])


class TestCalls:
    def test_are_found_by_identity(self):
        shared = nn.Conv2d(4, 4, 1)
        network = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
        (part,) = traced_parts(network)
        calls = calls_of(part)
        assert list(calls) == [shared, network[1]]
        assert len(calls[shared]) == 2
        assert len(calls[network[1]]) == 1

    def test_a_part_computes_what_the_module_computes(self):
        network = nn.Sequential(block(), Residual()).eval()
        (part,) = traced_parts(network)
        x = torch.randn(2, 4, 5, 5)
        again = torch.fx.GraphModule(network, part.graph)
        assert torch.equal(again(x), network(x))
