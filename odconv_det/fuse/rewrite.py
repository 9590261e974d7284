"""Find what follows each convolution in a graph, and put one module in its place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from odconv_det.core.relu6 import OutputReLU6
from odconv_det.folding import eval_affine, norm_behind
from odconv_det.fuse.convolution import Activation
from odconv_det.fuse.layout import Layout, enter
from odconv_det.fuse.modules import Fused, FusedConv2d, FusedDynamicConv2d
from odconv_det.tracing import Part, calls_of

__all__ = ["rewrite"]

_ACTIVATION_MODULES: dict[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    OutputReLU6: "relu6",
}
_ACTIVATION_CALLS: dict[Callable[..., object] | str, Activation] = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    "relu": "relu",
    "relu_": "relu",
    F.relu6: "relu6",
}
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


class _Match(NamedTuple):
    """A convolution and the nodes after it that one module will compute."""

    conv: fx.Node
    norm: fx.Node | None
    add: fx.Node | None
    act: fx.Node | None
    activation: Activation

    @property
    def last(self) -> fx.Node:
        return self.act or self.add or self.norm or self.conv

    @property
    def residual(self) -> fx.Node | None:
        """The other operand of the addition."""
        if self.add is None:
            return None
        own = self.norm or self.conv
        first, second = self.add.args
        return second if first is own else first


def rewrite(part: Part, layout: Layout) -> int:
    """Fuse every convolution of the part, in place; return how many.

    The part's class becomes a subclass of its own class whose ``forward`` is the new
    graph, so that everything else about it (methods, attributes, ``isinstance``) stays.
    """
    fused = 0
    calls = calls_of(part)
    for module, nodes in calls.items():
        if _is_convolution(module) and len(nodes) == 1:
            _replace(part, _match(part, module, nodes[0], calls), module)
            fused += 1
    if not fused:
        return 0
    _allow_overwriting(part)
    _enter_layout(part, layout)
    part.graph.lint()
    _adopt(part.module, part.graph)
    return fused


def _is_convolution(module: nn.Module) -> bool:
    known = type(module) is nn.Conv2d and module.padding_mode == "zeros"
    dynamic = hasattr(type(module), "fold") and hasattr(module, "attention")
    hooks = module._forward_hooks or module._forward_pre_hooks
    return (known or dynamic) and not isinstance(module.padding, str) and not hooks


def _match(
    part: Part,
    conv: nn.Module,
    node: fx.Node,
    calls: dict[nn.Module, list[fx.Node]],
) -> _Match:
    norm = None if norm_behind(conv, part, calls) is None else _only_user(node)
    out = norm or node
    add = act = None
    activation: Activation = "none"
    user = _only_user(out)
    if user is not None and _is_addition(user) and not _input_changes(part, node, user):
        add, user = user, _only_user(user)
    if user is not None and (found := _activation(part, user)):
        act, activation = user, found
    return _Match(node, norm, add, act, activation)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_addition(node: fx.Node) -> bool:
    return (
        node.op in ("call_function", "call_method")
        and node.target in _ADDITIONS
        and len(node.all_input_nodes) == len(node.args) == 2
        and not node.kwargs
    )


def _activation(part: Part, node: fx.Node) -> Activation | None:
    if node.op == "call_module":
        module = part.module.get_submodule(node.target)
        return _ACTIVATION_MODULES.get(type(module))
    if node.op in ("call_function", "call_method"):
        return _ACTIVATION_CALLS.get(node.target)
    return None


def _input_changes(part: Part, conv: fx.Node, until: fx.Node) -> bool:
    """Whether an operation after ``conv`` and before ``until`` works in place.

    The convolution would move there, and see the changed input.
    """
    node = conv.next
    while node is not until:
        if any(operand in conv.all_input_nodes for operand in node.all_input_nodes):
            module = (
                part.module.get_submodule(node.target)
                if node.op == "call_module"
                else None
            )
            if getattr(module, "inplace", False) or node.kwargs.get("inplace"):
                return True
            if node.target is operator.iadd or str(node.target).endswith("_"):
                return True
        node = node.next
    return False


def _replace(part: Part, match: _Match, conv: nn.Module) -> None:
    affine = None
    if match.norm is not None:
        affine = eval_affine(part.module.get_submodule(match.norm.target))
        _set(part.module, match.norm.target, nn.Identity())
    kind = FusedConv2d if type(conv) is nn.Conv2d else FusedDynamicConv2d
    _set(part.module, match.conv.target, kind(conv, affine, match.activation))
    operands = list(match.conv.args)
    if match.residual is not None:
        operands.append(match.residual)
    with part.graph.inserting_before(match.last):
        new = part.graph.call_module(match.conv.target, tuple(operands))
    match.last.replace_all_uses_with(new)
    for node in (match.act, match.add, match.norm, match.conv):
        if node is not None:
            part.graph.erase_node(node)


def _set(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)


def _allow_overwriting(part: Part) -> None:
    """A residual that nothing needs any more may give its memory to the output."""
    order = {node: position for position, node in enumerate(part.graph.nodes)}

    def fused(node: fx.Node) -> Fused | None:
        if node.op != "call_module":
            return None
        module = part.module.get_submodule(node.target)
        return module if isinstance(module, Fused) else None

    for node in part.graph.nodes:
        module = fused(node)
        if module is not None and len(node.args) == 2:
            residual = node.args[1]
            last = max(residual.users, key=order.__getitem__)
            module.overwrite = last is node and fused(residual) is not None


def _enter_layout(part: Part, layout: Layout) -> None:
    for node in list(part.graph.nodes):
        if node.op == "placeholder" and any(
            user.op == "call_module" for user in node.users
        ):
            with part.graph.inserting_after(node):
                entered = part.graph.call_function(enter, (node, layout))
            node.replace_all_uses_with(
                entered,
                delete_user_cb=lambda user, entered=entered: user is not entered,
            )


def _adopt(module: nn.Module, graph: fx.Graph) -> None:
    cls = type(module)
    forward = type(fx.GraphModule(module, graph)).forward
    members = {"forward": forward, "__module__": cls.__module__}
    module.__class__ = type(cls)(f"Fused{cls.__name__}", (cls,), members)
