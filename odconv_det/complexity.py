"""Parameters, multiply-adds and activations of any network, without computing it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["Call", "Complexity", "Counts", "count", "trace"]


@dataclass(frozen=True)
class Counts:
    """What a network or a part of it needs.

    Attributes:
        parameters: elements of all parameters, frozen ones too; one that is used in
            two places counts once, where it comes first.
        trainable: those of them that require a gradient.
        multiply_adds: those of convolutions and matrix products, one multiplication
            and one addition being one. Biases, norms, activation functions, pooling
            and elementwise products are not counted. A dynamic convolution has its
            own ``multiply_adds``: the convolution, its attention's matrix products and
            the mixing of its kernels.
        activations: elements of the outputs of convolutions and linear layers, dynamic
            ones included; their attentions are not counted.
    """

    parameters: int = 0
    trainable: int = 0
    multiply_adds: int = 0
    activations: int = 0

    def __add__(self, other: Counts) -> Counts:
        names = (field.name for field in fields(self))
        return Counts(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True)
class Complexity:
    """The counts of a network, layer by layer.

    Attributes:
        layers: counts by the name of the module that holds the parameters or computes.
        missing: names of modules with kernels or matrices whose multiply-adds are not
            in the counts: they were not called, or are of a kind nobody counts here.
    """

    layers: Mapping[str, Counts]
    missing: tuple[str, ...] = ()

    @property
    def total(self) -> Counts:
        """The whole network."""
        return self.part("")

    def part(self, name: str) -> Counts:
        """The module of this name with all that is in it; zeros if there is none."""
        return _sum(
            counts for layer, counts in self.layers.items() if _is_in(layer, name)
        )

    def children(self, name: str = "") -> dict[str, Counts]:
        """The parts of a module by the names of its children, in their order.

        What the module holds or computes itself stands under its own name; all
        together are ``part(name)``.
        """
        groups: dict[str, list[Counts]] = {}
        for layer, counts in self.layers.items():
            if _is_in(layer, name):
                inner = layer[len(name) + 1 :] if name else layer
                child = inner.partition(".")[0]
                key = ".".join(part for part in (name, child) if part)
                groups.setdefault(key, []).append(counts)
        return {key: _sum(group) for key, group in groups.items()}


class Call(NamedTuple):
    """One call of a convolution, a linear layer, or a module that counts itself."""

    name: str
    module: nn.Module
    input: torch.Size
    output: torch.Size

    @property
    def multiply_adds(self) -> int:
        """Those of the whole batch, without biases."""
        module = self.module
        if _counts_itself(module):
            in_size, out_size = tuple(self.input[2:]), tuple(self.output[2:])
            return self.input[0] * module.multiply_adds(in_size, out_size)
        if isinstance(module, nn.Linear):
            return self.output.numel() * module.in_features
        area = math.prod(module.kernel_size)
        if module.transposed:
            return self.input.numel() * module.out_channels // module.groups * area
        return self.output.numel() * module.in_channels // module.groups * area

    @property
    def activations(self) -> int:
        """Elements of the output; attention to features makes none of its own."""
        is_layer = not _counts_itself(self.module) or hasattr(
            self.module, "out_channels"
        )
        return self.output.numel() if is_layer else 0


def count(
    network: nn.Module,
    *inputs: Tensor | Sequence[Any],
    call: Callable[..., object] | None = None,
) -> Complexity:
    """Count what ``network(*inputs)`` needs, in eval mode.

    The network is called on torch's meta device, where nothing is computed, and is
    itself left as it is. Count before :func:`odconv_det.fuse`: what that makes is named
    in :attr:`Complexity.missing`.

    Args:
        network: any module, on any device. Its convolutions and linear layers are
            counted, and each module that has a method ``multiply_adds(in_size,
            out_size)`` of its own, which then answers for all that is in it.
        *inputs: tensors, or shapes in their place, batch first; a list of them for an
            argument that is a list of maps.
        call: how to call it, ``call(network, *inputs)``, where one forward pass is not
            what is to be counted.

    Example:
        >>> conv = nn.Conv2d(3, 8, 3, padding=1)
        >>> count(conv, (1, 3, 16, 16)).total
        Counts(parameters=224, trainable=224, multiply_adds=55296, activations=2048)
    """
    replica = _on_meta(network)
    calls = _record(replica, inputs, call)
    layers = {name: Counts() for name, _ in replica.named_modules()}
    for name, parameter in replica.named_parameters():
        size = parameter.numel()
        trainable = size * parameter.requires_grad
        layers[name.rpartition(".")[0]] += Counts(size, trainable)
    for one in calls:
        layers[one.name] += Counts(
            multiply_adds=one.multiply_adds, activations=one.activations
        )
    called = {one.name for one in calls}
    missing = (
        name
        for name, module in _outermost(replica)
        if name not in called and _multiplies(module)
    )
    used = {name: counts for name, counts in layers.items() if counts != Counts()}
    return Complexity(used, tuple(missing))


def trace(
    network: nn.Module,
    *inputs: Tensor | Sequence[Any],
    call: Callable[..., object] | None = None,
) -> list[Call]:
    """The calls that :func:`count` counts, in their order; arguments as there.

    Their modules are copies without values, on the meta device.
    """
    return _record(_on_meta(network), inputs, call)


def _on_meta(network: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters and buffers have no values."""
    memo: dict[int, Any] = {}
    # A copy that was moved to the meta device would first need the memory of both.
    for tensor in chain(network.parameters(), network.buffers()):
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = empty
    replica = copy.deepcopy(network, memo)
    replica.eval()  # MMDetection's return nothing
    return replica


@torch.no_grad()
def _record(
    replica: nn.Module,
    inputs: Sequence[Tensor | Sequence[Any]],
    call: Callable[..., object] | None,
) -> list[Call]:
    calls: list[Call] = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            first = next(chain(args, kwargs.values()))
            calls.append(Call(name, module, first.shape, output.shape))

        module.register_forward_hook(hook, with_kwargs=True)

    for name, module in _outermost(replica):
        if _is_counted(module):
            watch(name, module)
    dtype = next(
        (p.dtype for p in replica.parameters() if p.is_floating_point()), torch.float32
    )
    arguments = [_meta_input(one, dtype) for one in inputs]
    (call or _forward)(replica, *arguments)
    return calls


def _forward(network: nn.Module, *inputs: Any) -> object:
    return network(*inputs)


def _meta_input(value: Tensor | Sequence[Any], dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("meta")
    if all(isinstance(size, int) for size in value):
        return torch.empty(tuple(value), dtype=dtype, device="meta")
    return [_meta_input(one, dtype) for one in value]


def _outermost(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules but those inside of one that counts itself."""
    inner: set[nn.Module] = set()
    for name, module in network.named_modules():
        if module not in inner:
            yield name, module
            if _counts_itself(module):
                inner.update(module.modules())


def _counts_itself(module: nn.Module) -> bool:
    return callable(getattr(type(module), "multiply_adds", None))


def _is_counted(module: nn.Module) -> bool:
    return _counts_itself(module) or isinstance(module, _ConvNd | nn.Linear)


def _multiplies(module: nn.Module) -> bool:
    """Whether this module itself holds kernels or matrices to multiply by."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return False
    return _counts_itself(module) or any(
        parameter.dim() > 1 for parameter in module.parameters(recurse=False)
    )


def _is_in(layer: str, name: str) -> bool:
    return not name or layer == name or layer.startswith(f"{name}.")


def _sum(counts: Iterable[Counts]) -> Counts:
    return sum(counts, Counts())
