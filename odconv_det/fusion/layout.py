"""In which memory layout a fused network computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from odconv_det.tracing import Part

__all__ = ["LAYOUTS", "Layout", "enter", "keep_contiguous"]

Layout = Literal["auto", "channels_last", "contiguous"]
LAYOUTS = get_args(Layout)


def enter(x: Tensor, layout: Layout) -> Tensor:
    """``x`` in the layout that the network computes in from here on.

    Convolutions give their output in their input's layout, so this is the only place
    where it is chosen. ``auto`` takes channels_last for every shape: with the kernels
    in that layout too it was faster wherever it was measured (docs/benchmarks.md).

    Shape:
        - x: ``(B, C, H, W)``; anything else is returned as it is
    """
    if not isinstance(x, Tensor) or x.dim() != 4:
        return x
    if layout == "contiguous":
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)


def keep_contiguous(network: nn.Module, parts: Iterable[Part]) -> None:
    """Give NCHW maps to modules that may not look at strides.

    Kernels outside of torch, mmcv's RoIAlign among them, read the memory as NCHW
    whatever the tensor says. They are in modules of other packages that were not
    traced and have nothing traced within.
    """
    traced: set[nn.Module] = set()
    roots = [part.module for part in parts]
    for part in parts:  # outer ones first
        traced.update(part.module.modules())
        for name in part.opaque:
            traced.difference_update(part.module.get_submodule(name).modules())
    for module in network.modules():
        package = type(module).__module__.partition(".")[0]
        foreign = package not in ("torch", "odconv_det") and module not in traced
        if foreign and not any(inner in roots for inner in module.modules()):
            module.register_forward_pre_hook(_contiguous, with_kwargs=True)


def _contiguous(
    module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    return pytree.tree_map(
        lambda value: value.contiguous() if isinstance(value, Tensor) else value,
        (args, kwargs),
    )
