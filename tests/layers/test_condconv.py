"""CondConv2d: one routing for each residual block, from the block's input."""

import copy
import gc
import io
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from odconv_det.layers import CondConv2d
from odconv_det.layers.condconv import BlockRouting, CondRouting
from tests.calibrated import pictures
from tests.layers.blocks import Block, network
from tests.layers.cases import image, make, randomize
from tests.needs import needs_compile
from tests.oracle import condconv2d_oracle, oracle


def block(**options):
    torch.manual_seed(0)

    def build(*args, **kwargs):
        return CondConv2d(*args, **kwargs, kernel_num=3)

    return randomize(Block(build, 8, 8, **options)).eval()


def waiting(module):
    """Routings that somebody has still to fetch."""
    routings = [m.block for m in module.modules() if isinstance(m, CondRouting)]
    assert routings
    shared = [routing for routing in routings if routing is not None]
    return [kept for routing in shared for kept in routing._waiting.values()]


def explicit(block, x):
    """The block sample by sample, with the routing from its input."""
    fc = block.conv1.attention.fc
    routing = torch.sigmoid(x.mean((2, 3)) @ fc.weight[:, :, 0, 0].T + fc.bias)

    def norm(bn, y):
        return F.batch_norm(
            y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps
        )

    y = condconv2d_oracle(block.conv1, x, routing)
    y = norm(block.bn1, y).relu()
    y = condconv2d_oracle(block.conv2, y, routing)
    y = norm(block.bn2, y).relu()
    y = condconv2d_oracle(block.conv3, y, routing)
    shortcut = x if block.downsample is None else block.downsample(x)
    return (norm(block.bn3, y) + shortcut).relu()


class TestRouting:
    def test_of_a_layer_by_itself_comes_from_its_own_input(self):
        layer = make("CondConv2d", kernel_size=3).double()
        x = image(dtype=torch.float64)
        torch.testing.assert_close(layer(x), oracle(layer, x), rtol=1e-11, atol=1e-11)

    def test_is_not_normalised(self):
        routing = make("CondConv2d", kernel_size=3).attention(image()).kernel
        assert ((routing > 0) & (routing < 1)).all()
        assert (routing.sum(1) - 1).abs().max() > 0.1

    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_of_a_block_comes_from_the_block_s_input(self, stride, batch):
        module = block(stride=stride).double()
        x = image(batch, dtype=torch.float64)
        expected = explicit(module, x)
        torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)

    def test_of_a_network_comes_from_each_block_s_input(self):
        net = network("CondConv2d").double()
        x = pictures(2, 20).double()
        expected = net.bn1(net.conv1(x)).relu()
        for inner in net.layer1:
            expected = explicit(inner, expected)
        found, _ = net(x)
        assert found.std() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    def test_belongs_to_the_first_layer_alone(self):
        names = [name for name in block().state_dict() if "attention" in name]
        assert names == ["conv1.attention.fc.weight", "conv1.attention.fc.bias"]

    def test_gets_gradients_from_every_layer(self):
        module = block()
        gradients = []
        for zeroed in ("", "conv2", "conv3"):
            other = copy.deepcopy(module)
            if zeroed:  # this layer does not tell its experts apart
                bank = other.get_submodule(zeroed).weight
                with torch.no_grad():
                    bank.copy_(bank.mean(0).expand_as(bank))
            other(image()).square().sum().backward()
            gradients.append(other.conv1.attention.fc.weight.grad)
        assert not torch.allclose(gradients[0], gradients[1])
        assert not torch.allclose(gradients[0], gradients[2])

    def test_of_a_block_with_one_layer_is_shared_with_nobody(self):
        layer = make("CondConv2d", kernel_size=3)
        expected = layer(image())
        CondConv2d.share_in_block([layer])
        assert torch.equal(layer(image()), expected)
        assert waiting(layer) == []

    def test_is_in_the_mode_of_its_layer(self):
        layers = [make("CondConv2d", kernel_size=1).eval() for _ in range(3)]
        CondConv2d.share_in_block(layers)
        assert not [m for layer in layers for m in layer.modules() if m.training]

    def test_an_inflated_block_is_the_static_block(self):
        torch.manual_seed(1)
        static = randomize(Block(nn.Conv2d, 8, 8)).double().eval()
        module = block().double()
        state = {k: v for k, v in static.state_dict().items() if "conv" not in k}
        module.load_state_dict(state, strict=False)
        for name in ("conv1", "conv2", "conv3"):
            kernel = static.get_submodule(name).weight
            module.get_submodule(name).inflate_(kernel, noise=0.1)
        x = image(3, dtype=torch.float64)
        torch.testing.assert_close(module(x), static(x), rtol=1e-11, atol=1e-11)


class TestOrder:
    def test_a_later_layer_called_alone_says_what_is_missing(self):
        module = block()
        for layer in (module.conv2, module.conv3):
            with pytest.raises(RuntimeError, match="first convolution.*whole block"):
                layer(image())
        module(image())
        with pytest.raises(RuntimeError, match="first convolution.*whole block"):
            module.conv2(image())

    def test_a_routing_that_nobody_fetched_does_not_reach_the_next_batch(self):
        module = block()
        expected = module(image())
        module.conv1(torch.randn(5, 8, 4, 4))
        assert torch.equal(module(image()), expected)
        with pytest.raises(ValueError, match="expected input"):
            module.conv2(module.conv1(torch.randn(5, 8, 4, 4))[:, :3])
        assert torch.equal(module(image()), expected)

    def test_blocks_do_not_meet(self):
        one, other = block(), block()
        x = image()
        expected = one.conv2(one.conv1(x))
        one.conv3(expected)
        y = one.conv1(x)
        other(x + 1)
        assert torch.equal(one.conv2(y), expected)

    def test_each_device_has_its_own(self):
        routing = BlockRouting(readers=2)
        here, there = torch.zeros(1), torch.zeros(1, device="meta")
        routing.put(here)
        routing.put(there)
        for tensor in (there, here, here, there):
            assert routing.take(tensor.device) is tensor
        for tensor in (here, there):
            with pytest.raises(RuntimeError, match="first convolution"):
                routing.take(tensor.device)

    def test_what_an_error_left_unread_ends_with_its_thread(self):
        routing, left = BlockRouting(readers=1), []

        def request():
            value = torch.zeros(1)
            routing.put(value)
            left.append(weakref.ref(value))

        for _ in range(5):
            thread = threading.Thread(target=request)
            thread.start()
            thread.join()
        assert [value() for value in left] == [None] * 5


class TestCopies:
    @pytest.mark.parametrize("way", ["deepcopy", "torch.save"])
    def test_of_a_network_share_among_themselves_only(self, way):
        module = block()
        module.conv1(image())  # something is on its way
        assert len(waiting(module)) == 1
        clone = copy.deepcopy(module) if way == "deepcopy" else _reloaded(module)
        assert waiting(clone) == []
        with pytest.raises(RuntimeError, match="first convolution"):
            clone.conv2(image())
        x = image(3)
        assert torch.equal(clone(x), module(x))
        first = clone.conv1.attention.block
        assert first is clone.conv2.attention.block is clone.conv3.attention.block
        assert first is not module.conv1.attention.block
        with torch.no_grad():
            clone.conv1.attention.fc.weight.mul_(2)
        assert not torch.allclose(clone(x), module(x))

    def test_a_state_dict_loads_into_another_network(self):
        module = block()
        other = randomize(block())
        assert not torch.allclose(other(image()), module(image()))
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(image()), module(image()))


def _reloaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class TestMemory:
    @pytest.mark.parametrize("grad", [True, False])
    def test_nothing_is_kept_after_the_block_ran(self, grad):
        module = block()
        kept = []
        module.conv1.attention.register_forward_hook(
            lambda m, args, out: kept.append(weakref.ref(out.kernel))
        )
        with torch.set_grad_enabled(grad):
            y = module(image())
        assert waiting(module) == []
        del y
        gc.collect()
        assert [reference() for reference in kept] == [None]

    @pytest.mark.parametrize("mode", [True, False])
    @pytest.mark.parametrize("reentrant", [True, False])
    def test_checkpointing_gives_the_same_gradients_and_keeps_nothing(
        self, reentrant, mode
    ):
        results = []
        for option in (None, reentrant):
            module = block(reentrant=option).double().train(mode)
            x = image(3, dtype=torch.float64).requires_grad_()
            y = module(x)
            y.square().sum().backward()
            assert waiting(module) == []
            results.append([y, x.grad, *(p.grad for p in module.parameters())])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_checkpointed_blocks_in_a_row_do_not_meet(self, reentrant):
        results = []
        for option in (None, reentrant):
            net = network("CondConv2d", reentrant=option).double()
            sum(y.square().sum() for y in net(pictures(2, 20).double())).backward()
            assert waiting(net) == []
            results.append([p.grad for p in net.parameters()])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@needs_compile
def test_a_block_compiles_as_one_graph():
    module = block().train()
    eager = copy.deepcopy(module)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y, expected = compiled(image()), eager(image())
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    y.sum().backward()
    expected.sum().backward()
    assert waiting(module) == []
    for ours, theirs in zip(module.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_a_block_runs_under_autocast():
    module = block()
    expected = module(image())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(image())
    assert (y - expected).abs().max() <= 0.05 * expected.abs().max()


def test_threads_do_not_mix_their_routings():
    torch.manual_seed(0)
    layers = [CondConv2d(8, 8, 3, padding=1, kernel_num=4) for _ in range(3)]
    CondConv2d.share_in_block(layers)
    nn.init.normal_(layers[0].attention.fc.weight)
    block = nn.Sequential(*layers).eval()
    images = [torch.randn(2, 8, 12, 12) for _ in range(4)]
    with torch.no_grad():
        expected = [block(x) for x in images]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(25):
                assert all(map(torch.equal, pool.map(forward(block), images), expected))


def forward(block):
    def call(x):
        with torch.no_grad():
            return block(x)

    return call


def test_a_frozen_first_layer_may_run_without_gradients():
    """And not one whose own parameters would miss theirs."""
    layers = [CondConv2d(8, 8, 1), CondConv2d(8, 8, 1)]
    CondConv2d.share_in_block(layers)
    first, second = layers

    def run():
        with torch.no_grad():
            y = first(image())
        second(y).sum().backward()

    with pytest.raises(RuntimeError, match="ran without gradients"):
        run()
    first.requires_grad_(False)
    run()
    assert second.weight.grad.any()
