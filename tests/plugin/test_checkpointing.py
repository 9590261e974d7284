"""Networks under activation checkpointing, that of MMDetection and of MMEngine."""

import copy
import functools
import warnings

import pytest
import torch
from mmengine.runner import turn_on_activation_checkpointing
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.layers import DynamicConv2d
from odconv_det.layers.condconv import BlockRouting, CondRouting, _SharedRouting
from odconv_det.layers.pointwise import Pointwise
from odconv_det.plugin.backbones import DynamicMobileNetV2, DynamicResNet
from tests.calibrated import calibrate, pictures
from tests.plugin.side_by_side import KINDS, blocks, parts

NETWORKS = {
    "resnet18": functools.partial(DynamicResNet, 18, base_channels=4),
    "resnet50": functools.partial(
        DynamicResNet,
        50,
        base_channels=4,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(0, 1),
    ),
    "mobilenet": functools.partial(DynamicMobileNetV2, 0.25),
}
CONVOLUTIONS = [kind for kind in KINDS if "dynamic" in KINDS[kind]]

every_network = pytest.mark.parametrize("name", NETWORKS)
every_mode = pytest.mark.parametrize("norm_eval", [True, False])


@functools.cache
def prepared(name, kind):
    torch.manual_seed(0)
    # Of MobileNetV2 the first stages and the last: all would only take time.
    some = dict(where=dict(stages=(1, 2, 7, 8))) if name == "mobilenet" else {}
    network = NETWORKS[name](**KINDS[kind], **some)
    with torch.no_grad():
        for module in network.modules():
            # As initialised, some attentions are so steep that rounding shows.
            if isinstance(module, Pointwise):
                module.weight.mul_(0.02)
    return calibrate(network).double()


def build(name, kind, norm_eval):
    network = copy.deepcopy(prepared(name, kind))
    network.norm_eval = norm_eval
    return network.train()


def run(network):
    """Maps and gradients, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on their use_reentrant
        maps = network(pictures(2, 64).double())
        sum(y.square().mean() for y in maps).backward()
    found = {f"map {i}": y.detach() for i, y in enumerate(maps)}
    return found | {n: p.grad for n, p in network.named_parameters()}


@functools.lru_cache(maxsize=1)
def expected(name, kind, norm_eval):
    return run(build(name, kind, norm_eval))


def norms(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, _BatchNorm)}


def names_of(network, kind):
    return [name for name, m in network.named_modules() if isinstance(m, kind)]


def left_over(network):
    """Routings that no CondConv2d has fetched, and their graphs with them."""
    shared = {id(m.block): m.block for m in network.modules() if hasattr(m, "block")}
    routings = [one for one in shared.values() if isinstance(one, BlockRouting)]
    return [kept for one in routings for kept in one._waiting.values()]


# Ways to checkpoint -------------------------------------------------------------------


def with_cp(network):
    for block in blocks(network):
        block.with_cp = True


def stages(network):
    modules = {m: name for name, m in network.named_modules()}
    behind = [stage for [stage] in parts(network)[1:]]
    turn_on_activation_checkpointing(network, [modules[stage] for stage in behind])


def layers(network):
    turn_on_activation_checkpointing(network, names_of(network, DynamicConv2d))


def readers(network):
    """The layers that use the routing of their block's first."""
    shared = names_of(network, _SharedRouting)
    names = [name.removesuffix(".attention") for name in shared]
    turn_on_activation_checkpointing(network, names)


def folded_norms(network):
    names = (n for n in names_of(network, _BatchNorm) if ".attention" not in n)
    turn_on_activation_checkpointing(network, [n for n in names if "layer" in n])


WAYS = [
    (kind, way)
    for kind in CONVOLUTIONS
    for way in (with_cp, stages, layers, folded_norms)
    if (kind, way) != ("CondConv2d", layers)  # they share a routing: see below
]


@pytest.mark.parametrize("kind, way", WAYS)
@every_mode
@every_network
def test_gives_the_same_maps_and_gradients(name, norm_eval, kind, way):
    network = build(name, kind, norm_eval)
    way(network)
    found, plain = run(network), expected(name, kind, norm_eval)
    assert found.keys() == plain.keys()
    largest = max(tensor.abs().max() for tensor in plain.values())
    for key, tensor in plain.items():
        error = (found[key] - tensor).abs().max()
        assert error <= 1e-8 * tensor.abs().max() + 1e-12 * largest, key
    assert left_over(network) == []


@pytest.mark.parametrize("kind", ["static", "ODConv2d 4x", "DCDConv2d", "CGConv2d"])
@pytest.mark.parametrize("way", [with_cp, stages])
def test_norms_see_a_checkpointed_batch_twice(kind, way):
    """As upstream's do: statistics move in the forward pass and when it is repeated."""
    network = build("resnet18", kind, norm_eval=False)
    before = {n: int(m.num_batches_tracked) for n, m in norms(network).items()}
    way(network)
    run(network)
    for name, norm in norms(network).items():
        times = int(norm.num_batches_tracked) - before[name]
        assert times == (1 if name == "bn1" else 2), name


@pytest.mark.parametrize("way", [layers, readers])
@every_network
def test_a_layer_that_shares_a_routing_says_that_its_block_must_run(name, way):
    network = build(name, "CondConv2d", norm_eval=True)
    way(network)
    with pytest.raises(RuntimeError, match="call the whole block"):
        run(network)


@every_network
def test_a_routing_without_a_graph_is_refused(name):
    """Reentrant checkpointing of the block's first layer alone would lose gradients."""
    network = build(name, "CondConv2d", norm_eval=True)
    routings = names_of(network, CondRouting)
    firsts = [n for n in routings if network.get_submodule(n).block]
    turn_on_activation_checkpointing(
        network, [n.removesuffix(".attention") for n in firsts]
    )
    with pytest.raises(RuntimeError, match="checkpoint, the whole block"):
        run(network)
