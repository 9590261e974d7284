"""CUDA graphs of a module, one for each kind of input that it meets."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from typing_extensions import Self

__all__ = ["GraphedModule"]

# Before a capture: cuDNN's search, compilation and lazy initialisation end up in none.
WARM_UP = 3

# Takes the inputs, returns the outputs in memory that the next run overwrites.
Run = Callable[..., Any]


class GraphedModule(nn.Module):
    """``module`` for inference, replayed as CUDA graphs: no time to launch kernels.

    There is one graph for each exact shape, layout, type and device of the inputs and
    each setting of autocast. Nothing is padded to a common size, because pixels added
    to a map change its mean and thereby every attention. The first call with a new
    kind of input runs the module a few times and takes its graph; beyond
    ``max_graphs`` the graph not used for longest is deleted. All share one pool of
    memory.

    What Python decided at the capture stays decided: the module must not look at
    values, keep tensors between calls, or synchronise. Weights may change in place
    (``load_state_dict``); call :meth:`clear` after replacing them (``half``, ``to`` or
    ``assign=True`` on ``module`` itself) and after changing any other setting. Outputs
    carry no gradient. Not thread-safe, and to be called on one stream only: the same
    for all graphed modules of a device, because they share a workspace of cuBLAS.

    Args:
        module: in eval mode; takes tensors, and returns tensors or tuples, lists and
            dicts of them.
        max_graphs: how many graphs to keep, at least 1.
        copy_outputs: with ``False`` the outputs are the graph's own memory, which the
            next call overwrites, whatever its input.

    Shape:
        - inputs and outputs: as of ``module``

    Raises:
        ValueError: if ``module`` is in training mode, ``max_graphs`` is below 1, or an
            input is no CUDA tensor, or an output no tensor.

    Example:
        >>> detector.backbone = GraphedModule(odconv_det.fuse(detector.backbone))
    """

    def __init__(
        self, module: nn.Module, max_graphs: int = 16, *, copy_outputs: bool = True
    ) -> None:
        super().__init__()
        if max_graphs < 1:
            raise ValueError(f"max_graphs must be at least 1, got {max_graphs!r}")
        self.module = module
        self.max_graphs = max_graphs
        self.copy_outputs = copy_outputs
        self.training = module.training
        self._graphs: OrderedDict[tuple[object, ...], Run] = OrderedDict()
        self._pool: Any = None
        self._check_mode()

    def forward(self, *inputs: Tensor) -> Any:
        self._check_mode()
        with torch.no_grad():
            outputs = self._graph(inputs)(*inputs)
            return pytree.tree_map(self._output, outputs)

    def clear(self) -> None:
        """Delete every graph."""
        self._graphs.clear()

    def _check_mode(self) -> None:
        if self.module.training:
            raise ValueError(
                "CUDA graphs are for inference, and the module is in training mode: "
                "call eval() on it first"
            )

    def _graph(self, inputs: Sequence[Tensor]) -> Run:
        key = _key(inputs)
        if key not in self._graphs:
            while len(self._graphs) >= self.max_graphs:  # first, for its memory
                self._graphs.popitem(last=False)
            self._graphs[key] = self._capture(inputs)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _capture(self, inputs: Sequence[Tensor]) -> Run:
        if not inputs or not all(x.is_cuda for x in inputs):
            places = ", ".join(str(x.device) for x in inputs) or "nothing"
            raise ValueError(f"CUDA graphs need CUDA tensors, got {places}")
        # A pool cannot be used again once its last graph is deleted or a capture fails.
        pool, self._pool = self._pool, None
        if pool is None or not self._graphs:
            pool = torch.cuda.graph_pool_handle()
        captured = _Captured(self.module, inputs, pool)
        self._pool = pool
        return captured

    def _output(self, value: object) -> Tensor:
        if not isinstance(value, Tensor):
            raise ValueError(
                f"a graphed module must return tensors only, got {type(value).__name__}"
            )
        return value.clone() if self.copy_outputs else value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.clear()  # the graphs know the parameters by address
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"max_graphs={self.max_graphs}, copy_outputs={self.copy_outputs}"


def _key(inputs: Sequence[Tensor]) -> tuple[object, ...]:
    """All that a graph depends on; the strides say which memory format it is."""
    for x in inputs:
        if not isinstance(x, Tensor):
            raise ValueError(f"CUDA graphs need CUDA tensors, got {type(x).__name__}")
    autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
    return autocast, *((x.shape, x.stride(), x.dtype, x.device) for x in inputs)


class _Captured:
    """One graph, with the memory that it reads its inputs from and leaves outputs in.

    The inputs lie outside the pool, whose memory the graphs take turns in.
    """

    def __init__(
        self, module: nn.Module, inputs: Sequence[Tensor], pool: object
    ) -> None:
        device = inputs[0].device
        self._graph = torch.cuda.CUDAGraph()
        with (
            # A tensor made in inference mode could not be written to outside it.
            torch.inference_mode(False),
            torch.no_grad(),
            torch.cuda.device(device),
            # A capture that fails leaves its own stream the current one.
            torch.cuda.stream(torch.cuda.current_stream(device)),
            # A cast that autocast remembered would be freed before the first replay.
            torch.autocast(
                "cuda",
                torch.get_autocast_dtype("cuda"),
                enabled=torch.is_autocast_enabled("cuda"),
                cache_enabled=False,
            ),
        ):
            self._inputs = [torch.empty_like(x).copy_(x) for x in inputs]
            stream = _stream(device)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    module(*self._inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(
                self._graph,
                pool=pool,
                stream=stream,
                # Other threads, such as one that pins memory, may go on meanwhile.
                capture_error_mode="thread_local",
            ):
                self._outputs = module(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        for own, x in zip(self._inputs, inputs, strict=True):
            own.copy_(x)
        self._graph.replay()
        return self._outputs


@functools.lru_cache(maxsize=64)
def _stream(device: torch.device) -> torch.cuda.Stream:
    """To warm up and to capture on.

    torch keeps a workspace of cuBLAS for each stream, from the first product there on.
    Were that one within a capture, it would lie in the graphs' pool and go with them,
    while later graphs still used it.
    """
    return torch.cuda.Stream(device)
