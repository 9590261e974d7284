"""Find what follows each convolution in a graph, and put one module in its place."""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from odconv_det.core.relu6 import OutputReLU6
from odconv_det.folding import eval_affine, foldable, norm_behind
from odconv_det.fusion.convolution import Activation
from odconv_det.fusion.layout import Layout, enter
from odconv_det.fusion.modules import Fused, FusedConv2d, FusedDynamicConv2d
from odconv_det.layers.base import DynamicConv2d
from odconv_det.surgery import put
from odconv_det.tracing import Part, calls_of, has_hooks

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
_ADDITIONS = (operator.add, torch.add, "add")
_ADDITIONS_IN_PLACE = (operator.iadd, "add_")


class _Match(NamedTuple):
    """A convolution and the nodes after it that one module will compute."""

    conv: fx.Node
    norm: fx.Node | None
    add: fx.Node | None
    act: fx.Node | None
    activation: Activation

    @property
    def last(self) -> fx.Node:
        """The node whose value the module will give."""
        return self.act or self.add or self.norm or self.conv

    @property
    def place(self) -> fx.Node:
        """Where the module will stand: at the convolution, or where the addition was,
        because the other operand may be computed in between."""
        return self.add or self.conv

    @property
    def residual(self) -> fx.Node | None:
        """The other operand of the addition."""
        if self.add is None:
            return None
        own = self.norm or self.conv
        first, second = self.add.args
        return second if first is own else first


def rewrite(part: Part, layout: Layout, shared: Collection[nn.Module]) -> int:
    """Fuse every convolution of the part, in place; return how many.

    A convolution in ``shared`` has other places too, where something else may follow:
    only the BatchNorm joins it.

    The part's class becomes a subclass of its own class whose ``forward`` is the new
    graph, so that everything else about it (methods, attributes, ``isinstance``) stays.
    """
    _drop_identities(part)
    fused = 0
    calls = calls_of(part)
    for module, nodes in calls.items():
        if _is_convolution(module) and len(nodes) == 1:
            match = _match(part, module, nodes[0], calls, alone=module not in shared)
            _replace(part, match, module, layout)
            fused += 1
    if not fused:
        return 0
    _allow_overwriting(part)
    _enter_layout(part, layout)
    part.graph.lint()
    _adopt(part)
    return fused


def _drop_identities(part: Part) -> None:
    """Take out what does nothing at inference, such as the drop path of a shortcut."""
    for node in list(part.graph.nodes):
        if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            continue
        module = part.module.get_submodule(node.target)
        if type(module) in (nn.Identity, nn.Dropout) and not has_hooks(module):
            node.replace_all_uses_with(node.args[0])
            part.graph.erase_node(node)


def _is_convolution(module: nn.Module) -> bool:
    known = type(module) is nn.Conv2d and module.padding_mode == "zeros"
    dynamic = isinstance(module, DynamicConv2d) and module.mixes_a_bank
    if not (known or dynamic) or has_hooks(module):
        return False
    return not isinstance(module.padding, str)


def _match(
    part: Part,
    conv: nn.Module,
    node: fx.Node,
    calls: dict[nn.Module, list[fx.Node]],
    alone: bool,
) -> _Match:
    norm = None if norm_behind(conv, part, calls) is None else _only_user(node)
    out = norm or node
    add = act = None
    activation: Activation = "none"
    user = _only_user(out) if alone else None
    if user is not None and _adds(user, out) and _is_quiet(part, node, user):
        add, user = user, _only_user(user)
    if user is not None and (found := _activation(part, user)):
        act, activation = user, found
    return _Match(node, norm, add, act, activation)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _adds(node: fx.Node, own: fx.Node) -> bool:
    """Whether the node adds another tensor to ``own``."""
    if node.op not in ("call_function", "call_method") or node.kwargs:
        return False
    if not len(node.all_input_nodes) == len(node.args) == 2:
        return False
    if node.target in _ADDITIONS_IN_PLACE:
        return node.args[0] is own  # else it changes the other one, which others see
    return node.target in _ADDITIONS


def _activation(part: Part, node: fx.Node) -> Activation | None:
    if node.op == "call_module":
        module = part.module.get_submodule(node.target)
        return None if has_hooks(module) else _ACTIVATION_MODULES.get(type(module))
    if node.op in ("call_function", "call_method"):
        return _ACTIVATION_CALLS.get(node.target)
    return None


def _is_quiet(part: Part, conv: fx.Node, until: fx.Node) -> bool:
    """Whether nothing between the two nodes can change a tensor in place.

    The convolution moves behind what lies between, and must find its input unchanged.
    """
    node = conv.next
    while node is not until:
        if node.op == "call_module":
            module = part.module.get_submodule(node.target)
            pure = isinstance(module, Fused | nn.Conv2d | nn.Identity)
            if not (pure or foldable(module) or hasattr(type(module), "fold")):
                return False
        elif node.op != "get_attr":
            return False
        node = node.next
    return True


def _replace(part: Part, match: _Match, conv: nn.Module, layout: Layout) -> None:
    affine = None
    if match.norm is not None:
        affine = eval_affine(part.module.get_submodule(match.norm.target))
        put(part.module, match.norm.target, nn.Identity().eval())
    kind = FusedConv2d if type(conv) is nn.Conv2d else FusedDynamicConv2d
    fused = kind(conv, affine, match.activation)
    if layout != "contiguous":
        fused.to(memory_format=torch.channels_last)
    put(part.module, match.conv.target, fused)
    operands = list(match.conv.args)
    if match.residual is not None:
        fused.joined = True
        operands.append(match.residual)
    with part.graph.inserting_before(match.place):
        new = part.graph.call_module(match.conv.target, tuple(operands))
    match.last.replace_all_uses_with(new)
    for node in (match.act, match.add, match.norm, match.conv):
        if node is not None:
            part.graph.erase_node(node)


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
        if module is None or len(node.args) < 2:
            continue
        x, residual = node.args
        # A fused module gives new memory and only reads what it takes, so if all who
        # know this memory are such, nobody holds a view of it.
        module.overwrite = (
            residual is not x
            and fused(residual) is not None
            and all(fused(user) is not None for user in residual.users)
            and max(residual.users, key=order.__getitem__) is node
        )


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


def _adopt(part: Part) -> None:
    """Give the module the graph as its ``forward``, by a subclass of its class.

    What the graph was not made for, such as a flag that is not at its default, takes
    the way it took before, with the convolutions and their BatchNorm alone fused.
    """
    module = part.module
    cls = type(module)
    signature = inspect.signature(cls.forward)
    graph_forward = type(fx.GraphModule(module, part.graph)).forward

    def forward(self: nn.Module, *args: object, **kwargs: object) -> object:
        call = (self, *args)
        if part.flags or kwargs:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            call = bound.args
            usual = all(
                value is part.flags[name] if name in part.flags else _is_image(value)
                for name, value in list(bound.arguments.items())[1:]
            )
        else:
            usual = all(_is_image(value) for value in args)
        if usual:
            return graph_forward(*call)
        with _apart(self):
            return cls.forward(self, *args, **kwargs)

    members = {"forward": forward, "__module__": cls.__module__}
    module.__class__ = type(cls)(f"Fused{cls.__name__}", (cls,), members)


def _is_image(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 4


@contextlib.contextmanager
def _apart(module: nn.Module) -> Iterator[None]:
    """Let the convolutions in ``module`` leave additions and activations to others."""
    fused = [m for m in module.modules() if isinstance(m, Fused)]
    for one in fused:
        one.apart = True
    try:
        yield
    finally:
        for one in fused:
            one.apart = False
