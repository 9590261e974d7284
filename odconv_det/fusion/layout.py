"""In which memory layout a fused network computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from odconv_det.tracing import Part

__all__ = ["LAYOUTS", "Layout", "enter", "keep_contiguous"]

Layout = Literal["auto", "channels_last", "contiguous"]
LAYOUTS = get_args(Layout)


def enter(x: Tensor, layout: Layout) -> Tensor:
    """``x`` in the layout that the network computes in from here on.

    Convolutions give their output in their input's layout, so this is the only place
    where it is chosen. ``auto`` takes channels_last: see ``docs/benchmarks.md``.

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
    whatever the tensor says. They are in modules of other packages that could not be
    traced, or that have no parts to be traced.
    """
    opaque = {part.module.get_submodule(name) for part in parts for name in part.opaque}
    for module in network.modules():
        package = type(module).__module__.partition(".")[0]
        foreign = package not in ("torch", "odconv_det")
        if foreign and (module in opaque or not module._modules):
            module.register_forward_pre_hook(_contiguous)


def _contiguous(module: nn.Module, args: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(
        value.contiguous() if isinstance(value, Tensor) else value for value in args
    )
