"""CondConv, conditionally parameterized convolution (Yang et al., NeurIPS 2019)."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from odconv_det.core.pooling import global_average
from odconv_det.core.precision import full_precision
from odconv_det.functional import Attentions
from odconv_det.layers.base import DynamicConv2d
from odconv_det.layers.pointwise import Pointwise, normal_init

__all__ = ["BlockRouting", "CondConv2d", "CondRouting"]


class BlockRouting:
    """The routing of a block, on its way from the first convolution to the others.

    It is handed out as often as there are readers and then forgotten, so that nothing
    keeps a graph of autograd alive. Each thread and device has its own, for servers and
    ``DataParallel``; what an error left unread ends with its thread.
    """

    def __init__(self, readers: int) -> None:
        self.readers = readers
        self._own = _Own()
        self._compiled: dict[torch.device, tuple[Tensor, int, bool]] = {}

    @property
    def _waiting(self) -> dict[torch.device, tuple[Tensor, int, bool]]:
        # A compiled block keeps the routing to itself, and could not ask for the
        # thread's own.
        compiling = torch.compiler.is_compiling()
        return self._compiled if compiling else self._own.waiting

    def put(self, routing: Tensor, *, lost: bool = False) -> None:
        """Leave the routing for every reader.

        Args:
            routing: ``(B, N)``.
            lost: whether something behind it asks for a gradient that it cannot get.
        """
        if self.readers:
            self._waiting[routing.device] = (routing, self.readers, lost)

    def take(self, device: torch.device) -> Tensor:
        """The routing, once for each reader.

        Raises:
            RuntimeError: if the block's first convolution has not run before, or ran
                without a graph that this one needs.
        """
        waiting = self._waiting
        if device not in waiting:
            raise RuntimeError(
                "this CondConv2d uses the routing of its block's first convolution, "
                "which has to run before it each time: call the whole block"
            )
        routing, readers, lost = waiting.pop(device)
        if torch.is_grad_enabled() and lost:
            raise RuntimeError(
                "this CondConv2d uses the routing of its block's first convolution, "
                "which ran without gradients: run, or checkpoint, the whole block "
                "with them"
            )
        if readers > 1:
            waiting[device] = (routing, readers - 1, lost)
        return routing

    def __getstate__(self) -> dict[str, Any]:
        # Copies begin empty: what is on its way belongs to a forward pass.
        return {"readers": self.readers}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["readers"])


class _Own(threading.local):
    """What waits in one thread, by device."""

    def __init__(self) -> None:
        self.waiting: dict[torch.device, tuple[Tensor, int, bool]] = {}


class CondRouting(nn.Module):
    """A sigmoid for each expert, from the pooled input.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: :class:`~odconv_det.functional.Attentions`, only the kernel's
    """

    def __init__(self, in_channels: int, kernel_num: int) -> None:
        super().__init__()
        self.fc = Pointwise(in_channels, kernel_num, init=normal_init(0.01))
        self.block: BlockRouting | None = None

    def forward(self, x: Tensor) -> Attentions:
        with full_precision(x.device.type):
            routing = self.fc(global_average(x, self.fc.weight.dtype)).sigmoid()
        if self.block is not None:
            wanted = x.requires_grad or self.fc.weight.requires_grad
            self.block.put(routing, lost=wanted and not torch.is_grad_enabled())
        return Attentions(None, None, None, routing)


class _SharedRouting(nn.Module):
    """The routing that the block's first convolution has computed."""

    def __init__(self, block: BlockRouting) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Attentions:
        return Attentions(None, None, None, self.block.take(x.device))


class CondConv2d(DynamicConv2d):
    """Convolution with a weighted sum of experts: the weights are sigmoids.

    ``y = conv(x, sum_n r_n(x) weight_n) + bias`` with ``r = sigmoid(fc pool(x))``;
    neither softmax nor temperature. By itself a layer routes by its own input; in the
    networks one routing for each block comes from the block's input
    (:meth:`share_in_block`).

    Args:
        *args: those of ``nn.Conv2d``; see :class:`DynamicConv2d`.
        kernel_num: experts in the bank, ``N``.
        **kwargs: those of ``nn.Conv2d``.

    Shape:
        - input: ``(B, Ci, H, W)``
        - output: ``(B, Co, Ho, Wo)``
        - ``weight``: ``(N, Co, Ci/G, kh, kw)``

    Raises:
        ValueError: for an argument out of its range, with its value; for an input of
            another shape.

    Example:
        >>> CondConv2d(64, 128, 3, padding=1)(torch.rand(2, 64, 32, 40)).shape
        torch.Size([2, 128, 32, 40])
    """

    mixes_a_bank = True

    def __init__(self, *args: Any, kernel_num: int = 8, **kwargs: Any) -> None:
        super().__init__(*args, kernel_num=kernel_num, **kwargs)
        self.attention = CondRouting(self.in_channels, self.kernel_num)

    @staticmethod
    def share_in_block(layers: Sequence[DynamicConv2d]) -> None:
        """Let the first layer's routing, from the block's input, serve all of them."""
        first, *others = layers
        first.attention.block = BlockRouting(len(others))
        for layer in others:
            shared = _SharedRouting(first.attention.block)
            layer.attention = shared.train(layer.training)

    def neutralize_(self) -> float:
        """Every sigmoid is 1/2."""
        if isinstance(self.attention, CondRouting):
            self.attention.fc.zero_()
        return self.kernel_num / 2

    def fused_attention(self) -> nn.Module:
        return self.attention.requires_grad_(False)

    def extra_multiply_adds(self, out_size: tuple[int, int]) -> int:
        mixing = self.kernel_num * math.prod(self.kernel_shape)
        own = isinstance(self.attention, CondRouting)
        return mixing + (self.attention.fc.multiply_adds if own else 0)
