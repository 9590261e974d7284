"""Graphs of a network's parts, as far as torch.fx can see into them.

A detector as a whole cannot be traced: its control flow depends on the data. Its
backbone can, and most blocks. So each part that can be traced is, as large as possible;
within it a module that cannot be traced stays one opaque call, and is looked into on
its own.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Part", "calls_of", "has_hooks", "traced_parts"]


class Part(NamedTuple):
    """A module that can be traced, its name in the network, and its graph.

    ``flags`` are the arguments of its forward that the graph takes for granted;
    ``opaque`` are the modules within that it calls without knowing what they do.
    """

    name: str
    module: nn.Module
    graph: fx.Graph
    flags: dict[str, Any]
    opaque: list[str]


class _Proxy(fx.Proxy):
    def __iadd__(self, other: object) -> fx.Proxy:
        # torch.fx would record a sum of its own, and others would miss the change.
        return self.tracer.create_proxy(
            "call_function", operator.iadd, (self, other), {}
        )

    @property
    def requires_grad(self) -> bool:
        # Decides on activation checkpointing, which computes the same.
        return False


class _Tracer(fx.Tracer):
    """Traces into every module it can, and calls the others."""

    def __init__(self) -> None:
        super().__init__()
        self.opaque: list[str] = []

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        # Dynamic layers, the norms behind them, and a framework's subclass of a norm.
        if hasattr(type(m), "fold") or isinstance(m, _BatchNorm):
            return True
        return super().is_leaf_module(m, qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        last = next(iter(reversed(self.graph.nodes)))
        opaque, stack = len(self.opaque), dict(self.module_stack)
        try:
            if has_hooks(m):
                raise ValueError("a hook would be lost")
            with _keeps_its_state(m):
                return super().call_module(m, forward, args, kwargs)
        except Exception:  # anything can go wrong in code that never met a Proxy
            while (node := next(iter(reversed(self.graph.nodes)))) is not last:
                self.graph.erase_node(node)
            del self.opaque[opaque:]
            # torch.fx leaves its entry of a module that raised.
            self.module_stack.clear()
            self.module_stack.update(stack)
            name = self.path_of_module(m)
            self.opaque.append(name)
            return self.create_proxy("call_module", name, args, kwargs)


def traced_parts(network: nn.Module, prefix: str = "") -> Iterator[Part]:
    """The largest parts of the network that can be traced, in its order."""
    if next(network.children(), None) is None:
        return
    tracer = _Tracer()
    flags = _default_flags(network)
    try:
        with _keeps_its_state(network):
            graph = tracer.trace(network, concrete_args=flags)
    except Exception:
        inner = [name for name, _ in network.named_children()]
    else:
        inner = list(dict.fromkeys(tracer.opaque))
        yield Part(prefix, network, graph, flags, inner)
    for name in inner:
        yield from traced_parts(network.get_submodule(name), _join(prefix, name))


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody listens to what goes in or comes out, or to its gradient."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


@contextlib.contextmanager
def _keeps_its_state(module: nn.Module) -> Iterator[None]:
    """Raise if tracing changed an attribute: a graph would not change it again."""
    before = dict(vars(module))
    try:
        yield
    finally:
        after = dict(vars(module))
        vars(module).clear()
        vars(module).update(before)
    if after.keys() != before.keys() or any(after[k] is not before[k] for k in before):
        raise ValueError("forward changes the module")


def _default_flags(network: nn.Module) -> dict[str, Any]:
    """Arguments of forward that are flags: the default decides what is traced."""
    parameters = inspect.signature(network.forward).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if isinstance(parameter.default, bool | None)
    }


def calls_of(part: Part) -> dict[nn.Module, list[fx.Node]]:
    """Where each module is called, by identity: one may have several names."""
    calls: dict[nn.Module, list[fx.Node]] = {}
    for node in part.graph.nodes:
        if node.op == "call_module":
            module = part.module.get_submodule(node.target)
            calls.setdefault(module, []).append(node)
    return calls


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
