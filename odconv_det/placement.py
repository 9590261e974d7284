"""Which convolutions of a network are meant: stages, kernel sizes, blocks, names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.layers import AttendedNorm, DynamicConv2d
from odconv_det.layers.arguments import at_least

__all__ = ["Block", "blocks_of", "choose", "conditions", "last_norms"]

_BLOCK = re.compile(r"((?:.+\.)?)layer(\d+)\.(\d+)\.")
_SHORTCUT = ".downsample."


class Block(NamedTuple):
    """A residual block: ``<prefix>layer<stage>.<number>``."""

    prefix: str
    stage: int
    number: int


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
    given = dict(
        stages=stages,
        kernel_sizes=kernel_sizes,
        last_blocks=last_blocks,
        names=names,
    )
    if not isinstance(shortcuts, bool):
        raise ValueError(f"shortcuts must be True or False, got {shortcuts!r}")
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
    sizes = None if kernel_sizes is None else _squares(kernel_sizes)
    pattern = None if names is None else _pattern(names)
    chosen = [
        place.name
        for place in places
        if type(place.conv) is nn.Conv2d
        and place.stage in stages
        and (last_blocks is None or place.block in blocks)
        and (shortcuts or _SHORTCUT not in place.name)
        and (sizes is None or place.conv.kernel_size in sizes)
        and (pattern is None or pattern.fullmatch(place.name))
    ]
    if not chosen:
        shown = ", ".join(f"{k}={v!r}" for k, v in given.items() if v is not None)
        raise ValueError(
            f"no convolution of the network was chosen to be swapped, by {shown}; it "
            f"has {', '.join(place.name for place in places[:3]) or 'none'}, ..."
        )
    return chosen


def conditions(where: Mapping[str, Any]) -> dict[str, Any]:
    """``where`` of a config, if its words are arguments of :func:`choose`.

    Raises:
        ValueError: for another word.
    """
    words = ("stages", "kernel_sizes", "shortcuts", "last_blocks", "names")
    unknown = [word for word in where if word not in words]
    if unknown:
        raise ValueError(f"where knows {', '.join(words)}, got {unknown[0]!r}")
    return dict(where)


def _squares(sizes: Collection[int]) -> set[tuple[int, int]]:
    listed = isinstance(sizes, list | tuple | set | range)
    if not (listed and all(isinstance(size, int) for size in sizes)):
        raise ValueError(f"kernel_sizes must be like (3,), got {sizes!r}")
    return {(size, size) for size in sizes}


def _pattern(names: str) -> re.Pattern[str]:
    try:
        return re.compile(names)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"names must be a regular expression, got {names!r}: {error}"
        ) from None


def _places(network: nn.Module) -> list[_Place]:
    places = []
    after = 0  # the stage of what is outside the blocks and comes next
    for name, conv in network.named_modules(remove_duplicate=False):
        if not isinstance(conv, nn.Conv2d | DynamicConv2d):
            continue
        match = _BLOCK.match(name)
        block = _block(match) if match else None
        if block:
            after = block.stage + 1
        places.append(_Place(name, conv, block.stage if block else after, block))
    return places


def _block(match: re.Match[str]) -> Block:
    return Block(match[1], int(match[2]), int(match[3]))


def blocks_of(names: Iterable[str]) -> Mapping[Block, list[str]]:
    """The names by the block they are in; shortcuts' and those outside are left out."""
    blocks: dict[Block, list[str]] = {}
    for name in names:
        match = _BLOCK.match(name)
        if match and _SHORTCUT not in name:
            blocks.setdefault(_block(match), []).append(name)
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
