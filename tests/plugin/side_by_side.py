"""What is expected of upstream's backbones, looked at in theirs and in ours."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.layers import FEATURE_ATTENTIONS
from tests.calibrated import pictures

__all__ = [
    "KINDS",
    "Decision",
    "Expectation",
    "assert_decisions",
    "blocks",
    "decisions_about",
    "freezing",
    "groups_of",
    "maps",
    "modes",
    "norm_gradients",
    "norms",
    "parts",
    "read",
    "refusal",
    "returned",
    "seen",
    "with_defaults",
]

Build = Callable[..., nn.Module]
Look = Callable[[Build], Any]

# What DynamicResNet and DynamicMobileNetV2 are given: nothing, every layer, every
# attention.
LAYERS = {
    "ODConv2d 1x": dict(type="ODConv2d", kernel_num=1),
    "ODConv2d 4x": dict(type="ODConv2d", kernel_num=4),
    "CondConv2d": dict(type="CondConv2d", kernel_num=3),
    "DyConv2d": dict(type="DyConv2d"),
    "DCDConv2d": dict(type="DCDConv2d"),
    "CGConv2d": dict(type="CGConv2d"),
    "WeightNetConv2d": dict(type="WeightNetConv2d"),
    "WEConv2d": dict(type="WEConv2d"),
}
ATTENTIONS = tuple(attention.__name__ for attention in FEATURE_ATTENTIONS)
KINDS = {
    "static": {},
    **{name: dict(dynamic=layer) for name, layer in LAYERS.items()},
    **{name: dict(feature_attention=dict(type=name)) for name in ATTENTIONS},
}


class Expectation(NamedTuple):
    """A way to look at a backbone, and what is then seen of upstream's.

    ``look`` is given a function of upstream's arguments that builds the backbone.
    """

    look: Look
    upstream: Any


class Decision(NamedTuple):
    """What is seen of ours instead, and why that is meant."""

    ours: Any
    why: str


Backbones = Mapping[str, Build]  # upstream's is the first
Expectations = Mapping[str, Expectation]
Groups = Mapping[str, set[str]]
Decisions = Mapping[tuple[str, str], Decision]  # by group and expectation


def groups_of(backbones: Backbones) -> dict[str, set[str]]:
    """Those of ours that may differ from upstream's for one and the same reason."""
    _, *ours = backbones
    kind = {name: name.rpartition(", ")[2] for name in ours}
    return {
        "ours": set(ours),
        "feature attention": {n for n in ours if kind[n] in ATTENTIONS},
        "norms inside": {n for n in ours if kind[n].startswith(("OD", "DCD", "CG"))},
        "the release's": {n for n in ours if n.startswith("OD_")},
        "but the release's": {n for n in ours if not n.startswith("OD_")},
    }


def seen(look: Look, build: Build) -> Any:
    """What there is to see; of arguments that are refused, the one to blame."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of `pretrained`, of checkpoint's defaults
        try:
            return look(build)
        except ValueError as error:
            return f"ValueError: {str(error).split()[0]}"


def decisions_about(
    expectation: str, backbone: str, decisions: Decisions, groups: Groups
) -> list[Decision]:
    """Those for this backbone: at most one, as :func:`assert_decisions` checks."""
    return [
        decision
        for (group, about), decision in decisions.items()
        if about == expectation and backbone in groups[group]
    ]


def assert_decisions(
    decisions: Decisions, groups: Groups, expectations: Expectations
) -> None:
    """Each is a difference with a reason, and the only one of its backbones."""
    decided = set()
    for (group, about), decision in decisions.items():
        assert decision.ours != expectations[about].upstream, about
        assert decision.why
        for backbone in groups[group]:
            assert (backbone, about) not in decided
            decided.add((backbone, about))


# Parts of a network -------------------------------------------------------------------


def parts(network: nn.Module) -> list[list[nn.Module]]:
    """The stem, and each stage: modules whose outputs follow each other."""
    names = [name for name, _ in network.named_children()]
    children = list(network.children())
    first = names.index("layer1")
    return [children[:first], *([stage] for stage in children[first:])]


def blocks(network: nn.Module) -> list[nn.Module]:
    """Every residual block."""
    stages = [stage for [stage] in parts(network)[1:]]
    return [b for stage in stages if isinstance(stage, nn.Sequential) for b in stage]


def norms(module: nn.Module) -> list[nn.Module]:
    """Every BatchNorm and GroupNorm."""
    kinds = (_BatchNorm, nn.GroupNorm)
    return [one for one in module.modules() if isinstance(one, kinds)]


def frozen(network: nn.Module) -> tuple[str, str]:
    """Which parts ask for no gradient, and which have their norms in eval mode.

    A letter for each part: ``x`` for all of it, ``.`` for nothing, ``?`` otherwise.
    """

    rows = parts(network)
    gradients = [{p.requires_grad for m in ms for p in m.parameters()} for ms in rows]
    trains = [{norm.training for m in ms for norm in norms(m)} for ms in rows]
    return _letters(gradients), _letters(trains)


def _letters(rows: list[set[bool]]) -> str:
    return "".join("?" if len(row) > 1 else ".x"[row == {False}] for row in rows)


# Ways to look -------------------------------------------------------------------------


def refusal(about: str, **options: Any) -> Look:
    """The kind of error that ends building, and whether it is about an argument."""

    def look(build: Build) -> str:
        try:
            build(**options)
        except ValueError:
            raise  # to seen()
        except Exception as error:  # of any kind: that is what is looked at
            return type(error).__name__ + (f": {about}" if about in str(error) else "")
        return "built"

    return look


def maps(*size: int, batch: int = 2, **options: Any) -> Look:
    """Shapes of the maps of a network that trains, or what there is instead of them."""

    def look(build: Build) -> object:
        network = build(**options)
        network.train()
        channels = options.get("in_channels", 3)
        outputs = network(pictures(batch, *size)[:, :channels])
        if not isinstance(outputs, tuple):
            return type(outputs)
        return [tuple(output.shape) for output in outputs]

    return look


def freezing(*stages: int, train: bool = True, **options: Any) -> Look:
    """What each value of ``frozen_stages`` freezes, in a network that trains."""

    def look(build: Build) -> dict[int, tuple[str, str]]:
        found = {}
        for value in stages:
            network = build(frozen_stages=value, norm_eval=False, **options)
            for training in (True, False, True) if train else ():
                network.train(training)
            found[value] = frozen(network)
        return found

    return look


def modes(**options: Any) -> Look:
    """In which modes the norms of each kind are, in training and after it."""

    def look(build: Build) -> list[dict[str, set[bool]]]:
        network = build(frozen_stages=-1, **options)
        found = []
        for training in (True, False):
            network.train(training)
            kinds: dict[str, set[bool]] = {}
            for norm in norms(network):
                kind = "GN" if isinstance(norm, nn.GroupNorm) else "BN"
                kinds.setdefault(kind, set()).add(norm.training)
            found.append(kinds)
        return found

    return look


def norm_gradients(**options: Any) -> Look:
    """Whether parameters of norms ask for a gradient."""

    def look(build: Build) -> set[bool]:
        network = build(frozen_stages=-1, **options)
        return {p.requires_grad for norm in norms(network) for p in norm.parameters()}

    return look


def read(*names: str, **options: Any) -> Look:
    """Attributes of the network."""

    def look(build: Build) -> list[Any]:
        network = build(**options)
        return [getattr(network, name) for name in names]

    return look


def returned(**options: Any) -> Look:
    """Whether ``train`` and ``eval`` return the network."""

    def look(build: Build) -> list[bool]:
        network = build(**options)
        return [network.train() is network, network.eval() is network]

    return look


def with_defaults(upstream: type[nn.Module], **options: Any) -> Look:
    """Building with every argument that upstream has a default for."""
    known = inspect.signature(upstream).parameters.values()
    defaults = {p.name: p.default for p in known if p.default is not p.empty}
    return refusal("argument", **{**defaults, **options})
