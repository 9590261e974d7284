"""Which convolutions of a network are meant: stages, kernel sizes, blocks, names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.layers import AttendedNorm, DynamicConv2d
from odconv_det.layers.arguments import at_least

__all__ = ["Block", "blocks_of", "choose", "last_norms"]

_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_SHORTCUT = ".downsample."


class Block(NamedTuple):
    """A residual block: ``layer<stage>.<number>``."""

    stage: int
    number: int

    @property
    def name(self) -> str:
        """Of the module in its network."""
        return f"layer{self.stage}.{self.number}"


class _Place(NamedTuple):
    """Where a convolution is; ``block`` is ``None`` outside the residual blocks.

    Those that are dynamic already keep their place, so that stages stay what they were.
    """

    name: str
    conv: nn.Module
    stage: int
    block: Block | None


def choose(
    network: nn.Module,
    *,
    stages: Collection[int] | None = None,
    kernel_sizes: Collection[int] | None = None,
    shortcuts: bool = False,
    last_blocks: int | None = None,
    names: str | None = None,
) -> list[str]:
    """Names of the ``nn.Conv2d`` that meet every condition, in the network's order.

    Subclasses of ``nn.Conv2d`` are another operation and do not count. The network is a
    ResNet or MobileNetV2 with blocks ``layer<stage>.<number>``, as MMDetection,
    torchvision's ResNet and timm's have them; any other one if neither ``stages`` nor
    ``last_blocks`` is given.

    Args:
        stages: 0 is the stem, ``i`` is ``layer<i>``, and one more is what comes after
            the last (MobileNetV2's ``conv2``, 8). ``None``: all but the stem.
        kernel_sizes: of square kernels, such as ``(3,)``. ``None``: all.
        shortcuts: whether the projections of shortcuts belong to it.
        last_blocks: only convolutions of so many residual blocks at the end of the
            chosen stages.
        names: a regular expression for the whole name.

    Raises:
        ValueError: for a condition that cannot be met, or is met by no convolution.
    """
    places = _places(network)
    blocks = list(dict.fromkeys(place.block for place in places if place.block))
    if not blocks and (stages is not None or last_blocks is not None):
        raise ValueError(
            "stages and last_blocks are for networks with blocks named layer1.0, ...; "
            "this one has none: choose by names or kernel_sizes"
        )
    known = {place.stage for place in places}
    if stages is None:
        # A network without blocks has no stem that could be told from the rest.
        stages = known - {0} if blocks else known
    elif isinstance(stages, int) or not set(stages) <= known:
        raise ValueError(f"stages must be some of {sorted(known)}, got {stages!r}")
    if last_blocks is not None:
        inside = [block for block in blocks if block.stage in stages]
        if at_least(1, "last_blocks", last_blocks) > len(inside):
            raise ValueError(
                f"last_blocks must be at most {len(inside)}, the number of blocks in "
                f"stages {sorted(stages)}, got {last_blocks}"
            )
        blocks = inside[-last_blocks:]
    if isinstance(kernel_sizes, int):
        raise ValueError(f"kernel_sizes must be like (3,), got {kernel_sizes!r}")
    sizes = None if kernel_sizes is None else {(k, k) for k in kernel_sizes}
    chosen = [
        place.name
        for place in places
        if type(place.conv) is nn.Conv2d
        and place.stage in stages
        and (last_blocks is None or place.block in blocks)
        and (shortcuts or _SHORTCUT not in place.name)
        and (sizes is None or place.conv.kernel_size in sizes)
        and (names is None or re.fullmatch(names, place.name))
    ]
    if not chosen:
        conditions = dict(
            stages=sorted(stages),
            kernel_sizes=kernel_sizes,
            shortcuts=shortcuts,
            last_blocks=last_blocks,
            names=names,
        )
        shown = ", ".join(f"{k}={v!r}" for k, v in conditions.items() if v is not None)
        raise ValueError(
            f"no convolution of the network was chosen to be swapped, by {shown}"
        )
    return chosen


def _places(network: nn.Module) -> list[_Place]:
    places = []
    after = 0  # the stage of what is outside the blocks and comes next
    for name, conv in network.named_modules(remove_duplicate=False):
        if not isinstance(conv, nn.Conv2d | DynamicConv2d):
            continue
        match = _BLOCK.match(name)
        block = Block(int(match[1]), int(match[2])) if match else None
        if block:
            after = block.stage + 1
        places.append(_Place(name, conv, block.stage if block else after, block))
    return places


def blocks_of(names: Iterable[str]) -> Mapping[Block, list[str]]:
    """The names by the block they are in; shortcuts' and those outside are left out."""
    blocks: dict[Block, list[str]] = {}
    for name in names:
        match = _BLOCK.match(name)
        if match and _SHORTCUT not in name:
            blocks.setdefault(Block(int(match[1]), int(match[2])), []).append(name)
    return blocks


def last_norms(network: nn.Module) -> list[str]:
    """Names of the BatchNorm at the end of every residual block.

    Raises:
        ValueError: if the network has no blocks named ``layer1.0``, or has feature
            attention already.
    """
    modules = list(network.named_modules())
    if any(isinstance(module, AttendedNorm) for _, module in modules):
        raise ValueError("the network has feature attention already")
    inside = [f"{name}." for name, m in modules if isinstance(m, DynamicConv2d)]
    norms = blocks_of(
        name
        for name, module in modules
        if isinstance(module, _BatchNorm) and not name.startswith(tuple(inside))
    )
    if not norms:
        raise ValueError(
            "feature attention goes behind the last BatchNorm of blocks named "
            "layer1.0, ...; this network has none"
        )
    return [names[-1] for names in norms.values()]
