"""BatchNorm in eval mode, applied by the dynamic convolution in front of it.

Its scale joins the filter attention and its shift the bias, so it costs nothing, and
the map between the two is neither written nor saved for backward. ``gamma`` and
``beta`` stay trainable. Which of the two modules applies it is decided at every call,
by the mode the BatchNorm is in then, and by whether a hook listens to either; names in
the state dict do not change.
"""

from __future__ import annotations

import functools
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

from odconv_det.core.per_sample import own
from odconv_det.core.relu6 import OutputReLU6
from odconv_det.functional import Affine
from odconv_det.tracing import Part, calls_of, has_hooks, traced_parts

__all__ = [
    "Fold",
    "eval_affine",
    "fold_batch_norms",
    "foldable",
    "norm_behind",
    "unfold_batch_norms",
]


class Fold:
    """A convolution and the BatchNorm behind it, by their names in their parent.

    By name, because the network may change: when either has been replaced (as
    ``SyncBatchNorm.convert_sync_batchnorm`` does), or is a copy that shares this object
    (as ``DataParallel`` makes them), each does its own work again. So it is while a
    hook is to see the map between the two, and in a copy of one without the other.
    """

    def __init__(self, parent: nn.Module, conv: str, norm: str) -> None:
        self.parent = parent
        self.conv = conv
        self.norm = norm

    def affine(self, conv: nn.Module) -> Affine | None:
        """What ``conv`` has to apply to its output, if anything."""
        pair = self._active()
        return eval_affine(pair[1]) if pair and pair[0] is conv else None

    def relieves(self, norm: nn.Module) -> bool:
        """Whether ``norm`` has nothing to do, because the convolution does it."""
        pair = self._active()
        return pair is not None and pair[1] is norm

    def _active(self) -> tuple[nn.Module, nn.Module] | None:
        modules = self.parent._modules
        conv, norm = modules.get(self.conv), modules.get(self.norm)
        # Of their own, not through a wrapper that passes attributes on.
        agreed = all(
            m is not None and vars(m).get("fold") is self for m in (conv, norm)
        )
        if not agreed or norm.training or any(map(has_hooks, (conv, norm))):
            return None
        return None if _has_any_global_hook() else (conv, norm)

    def __deepcopy__(self, memo: dict[int, object]) -> Fold | None:
        # The parent comes before its children, unless one of them is copied alone.
        parent = memo.get(id(self.parent))
        return None if parent is None else Fold(parent, self.conv, self.norm)

    def __reduce__(self) -> tuple[object, ...]:
        # A pickle does not tell whether it holds the parent as well.
        return type(None), ()


class _Folded:
    """Mixin of a BatchNorm whose convolution applies it in eval mode."""

    fold: Fold | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.fold is not None and self.fold.relieves(self):
            # A checkpoint, which runs without gradients, must not return its input.
            return x if torch.is_grad_enabled() else own(x)
        return super().forward(x)


# MMEngine's init_cfg finds a layer by its name and those of its direct bases.
class FoldedBatchNorm2d(_Folded, nn.BatchNorm2d, _BatchNorm):
    """BatchNorm2d that a convolution applies in eval mode."""


class FoldedSyncBatchNorm(_Folded, nn.SyncBatchNorm, _BatchNorm):
    """SyncBatchNorm that a convolution applies in eval mode."""


@functools.lru_cache(maxsize=64)
def _folded_class(cls: type[_BatchNorm]) -> type[_BatchNorm]:
    if issubclass(cls, _Folded):
        return cls
    known = {
        nn.BatchNorm2d: FoldedBatchNorm2d,
        nn.SyncBatchNorm: FoldedSyncBatchNorm,
    }
    if cls in known:
        return known[cls]
    # A framework's own subclass, such as MMEngine's SyncBatchNorm. The new class has no
    # name to be imported by: pickle makes it anew from the one below.
    members = {"__reduce__": lambda self: (_restore, (cls,), vars(self).copy())}
    return type(f"Folded{cls.__name__}", (_Folded, cls, _BatchNorm), members)


def _restore(cls: type[_BatchNorm]) -> _BatchNorm:
    folded = _folded_class(cls)
    return folded.__new__(folded)


def foldable(norm: nn.Module) -> bool:
    """Whether this is a BatchNorm that is affine in eval mode."""
    # Of maps: BatchNorm2d, SyncBatchNorm, and what frameworks make of the latter.
    other = isinstance(norm, nn.BatchNorm1d | nn.BatchNorm3d)
    if not isinstance(norm, _BatchNorm) or other or has_hooks(norm):
        return False
    forwards = (_Folded.forward, nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)
    return type(norm).forward in forwards and norm.running_mean is not None


def eval_affine(norm: nn.Module) -> Affine:
    """What a BatchNorm with running statistics computes in eval mode.

    Shape:
        - both: ``(C,)``
    """
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    if norm.bias is None:
        return Affine(scale, -norm.running_mean * scale)
    return Affine(scale, torch.addcmul(norm.bias, norm.running_mean, scale, value=-1))


def norm_behind(
    conv: nn.Module, part: Part, calls: dict[nn.Module, list[fx.Node]]
) -> nn.Module | None:
    """The foldable BatchNorm that takes all that ``conv`` gives, and nothing else."""
    norms = set()
    for call in calls[conv]:
        users = list(call.users)
        if len(users) != 1 or users[0].op != "call_module":
            return None
        norms.add(part.module.get_submodule(users[0].target))
    norm = norms.pop()
    alone = not norms and foldable(norm) and len(calls[norm]) == len(calls[conv])
    return norm if alone else None


def fold_batch_norms(network: nn.Module) -> list[str]:
    """Let every dynamic convolution apply the BatchNorm behind it, in eval mode.

    Only where both are children of one module and nothing else sees the map between
    them, as far as the network can be traced. A BatchNorm in training mode works as
    ever. The backbones of this package do it by themselves; call it after ``swap``, and
    for a network that was pickled whole.

    A convolution that is taken out of its network, into a slice or another container,
    still applies the BatchNorm; a copy of it alone does not.

    Returns:
        The names of the convolutions that now do.

    Example:
        >>> swap(net, lambda name, conv: conv.kernel_size == (3, 3), ODConv2d)
        >>> fold_batch_norms(net)
    """
    folded = []
    names = Counter(m for _, m in network.named_modules(remove_duplicate=False))
    for part in traced_parts(network):
        calls = calls_of(part)
        for conv, nodes in calls.items():
            dynamic = hasattr(type(conv), "fold") and not isinstance(conv, _Folded)
            if not dynamic or has_hooks(conv):
                continue
            norm = norm_behind(conv, part, calls)
            if norm is None:
                continue
            parent, _, conv_name = nodes[0].target.rpartition(".")
            norm_parent, _, norm_name = calls[norm][0].target.rpartition(".")
            # What has two names has two places, and may have another partner there.
            if parent == norm_parent and names[conv] == names[norm] == 1:
                _pair(part.module.get_submodule(parent), conv_name, norm_name)
                _lighten(part, calls[norm])
                folded.append(f"{part.name}.{nodes[0].target}".lstrip("."))
    return folded


def unfold_batch_norms(network: nn.Module) -> None:
    """Undo :func:`fold_batch_norms`: every BatchNorm works by itself again."""
    for module in network.modules():
        if getattr(module, "fold", None) is not None:
            module.fold = None
        if isinstance(module, OutputReLU6):
            module.__class__ = nn.ReLU6


def _lighten(part: Part, norm_calls: list[fx.Node]) -> None:
    """Let a ReLU6 behind the BatchNorm keep one map for backward instead of two."""
    for call in norm_calls:
        for user in call.users:
            if user.op == "call_module":
                module = part.module.get_submodule(user.target)
                if type(module) is nn.ReLU6:
                    module.__class__ = OutputReLU6


def _pair(parent: nn.Module, conv: str, norm: str) -> None:
    fold = Fold(parent, conv, norm)
    module = parent._modules[norm]
    module.__class__ = _folded_class(type(module))
    module.fold = parent._modules[conv].fold = fold
