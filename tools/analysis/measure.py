"""Measuring: interleaved times, peak memory, bytes kept for backward."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

__all__ = ["Timing", "interleave", "peak_memory", "saved_bytes"]

Step = Callable[[], object]


class Timing(NamedTuple):
    """Of one variant: milliseconds, and its time over the first variant's.

    ``milliseconds`` is the median, ``ratio`` the ratio of medians; ``low`` and ``high``
    are the quartiles of the ratios within a round.
    """

    milliseconds: float
    ratio: float
    low: float
    high: float


def interleave(
    steps: Mapping[str, Step], rounds: int, device: torch.device, warm_up: int = 2
) -> dict[str, Timing]:
    """Run every step once a round, in turn, so that noise meets all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    for number in range(warm_up + rounds):
        for name, step in steps.items():
            seconds = _seconds(step, device)
            if number >= warm_up:
                times[name].append(seconds)
    first = next(iter(times.values()))
    timings = {}
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, first, strict=True)]
        low, _, high = _quartiles(ratios)
        ratio = statistics.median(own) / statistics.median(first)
        timings[name] = Timing(1e3 * statistics.median(own), ratio, low, high)
    return timings


def _quartiles(values: list[float]) -> list[float]:
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def _seconds(step: Step, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def saved_bytes(network: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass keeps for backward, besides the parameters.

    Memory that several operations keep is counted once.
    """
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(x)  # kept until all is counted, or memory would be reused
    total = sum(seen.values())
    del outputs
    return total


def peak_memory(step: Step, device: torch.device) -> int:
    """Bytes of tensors alive at the worst moment of a step, above those before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    alive = peak = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        alive += size
        peak = max(peak, alive)
    return peak
