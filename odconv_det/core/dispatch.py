"""How a dynamic convolution is computed: a choice by shape alone, in one table."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args, get_type_hints

__all__ = ["RULES", "Case", "Plan", "choose", "force"]

Pair = tuple[int, int]


class Case(NamedTuple):
    """All that the choice may depend on.

    ``per_sample`` says whether mixing or a spatial attention makes the kernel itself
    depend on the sample; channel and filter attention can also scale activations.
    ``fast_matmul`` is false where a matrix product is slower than a convolution of the
    same operands: float32 on a GPU, if only convolutions may use TF32.
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: Pair
    padding: Pair
    in_size: Pair
    out_size: Pair
    per_sample: bool
    channels_last: bool
    device: str
    fast_matmul: bool = True

    @property
    def depthwise(self) -> bool:
        """One filter for each channel."""
        return self.groups == self.in_channels == self.out_channels

    @property
    def pointwise(self) -> bool:
        """A convolution that is a matrix product."""
        unpadded = self.padding == (0, 0)
        return self.kernel_size == (1, 1) and self.groups == 1 and unpadded

    @property
    def kernel_elements(self) -> int:
        """Of the kernel of one sample."""
        area = math.prod(self.kernel_size)
        return self.out_channels * self.in_channels // self.groups * area

    @property
    def map_elements(self) -> int:
        """Of the input and the output of one sample."""
        ins = self.in_channels * math.prod(self.in_size)
        return ins + self.out_channels * math.prod(self.out_size)


class Plan(NamedTuple):
    """Where channel and filter attention go, and how the samples are convolved.

    scale:
        ``kernel``: into the kernel, so that one convolution does everything;
        ``maps``: to the input and the output of the convolution.
    convolve:
        ``shared``: one convolution of the batch with one kernel;
        ``matmul``: one batched matrix product;
        ``slices``: one convolution for each sample;
        ``grouped``: one convolution of the batch as groups of a single image.
    """

    scale: Literal["kernel", "maps"]
    convolve: Literal["shared", "matmul", "slices", "grouped"]


class Rule(NamedTuple):
    """One row of the table."""

    when: str
    holds: Callable[[Case], bool]
    convolve: Literal["shared", "matmul", "slices", "grouped"]


# The first row that holds decides.
RULES = (
    Rule(
        # A convolution would first reorder input, kernel and output if they are NCHW,
        # and the kernel in any case, which shows where the map is small.
        "1x1 on a CPU, NCHW or a small map",
        lambda c: c.pointwise and c.device == "cpu" and (_nchw(c) or _small(c)),
        "matmul",
    ),
    Rule(
        "one kernel serves every sample, and is larger than a sample's maps",
        lambda c: not c.per_sample and _heavy(c),
        "shared",
    ),
    Rule("a single sample", lambda c: c.batch <= 1, "slices"),
    Rule(
        # 83 against 112 ms for two maps of 144 x 200 x 336, but 15 against 9 ms for two
        # of 384 x 50 x 84, on two cores of a Xeon.
        "depthwise, NCHW, large maps on a CPU (on a GPU all: not measured)",
        lambda c: c.depthwise and _nchw(c) and (c.device != "cpu" or _large(c)),
        "grouped",
    ),
    Rule(
        "1x1 on a GPU, where a product is as fast as a convolution (not measured)",
        lambda c: c.pointwise and c.device == "cuda" and c.fast_matmul,
        "matmul",
    ),
    Rule(
        "few samples, or a CPU, which gains nothing from a large launch",
        lambda c: c.batch <= 8 or c.device == "cpu",
        "slices",
    ),
    Rule("many samples on a GPU (not measured)", lambda c: True, "grouped"),
)


def choose(case: Case) -> Plan:
    """The plan for a case: a function of its shape alone, but for :func:`force`."""
    convolve = _forced.get("convolve")
    if convolve is None or not _can(case, convolve):
        convolve = next(rule.convolve for rule in RULES if rule.holds(case))
    scale = _forced.get("scale") or ("maps" if _heavy(case) else "kernel")
    return Plan("maps" if convolve == "shared" else scale, convolve)


def _heavy(case: Case) -> bool:
    """Whether scaling the kernel costs more than scaling what goes in and comes out."""
    return case.kernel_elements > case.map_elements


def _small(case: Case) -> bool:
    """Up to 28 x 28 pixels."""
    return math.prod(case.out_size) <= 784


def _large(case: Case) -> bool:
    """More than 32 MiB of float32 go in and come out for each sample."""
    return case.map_elements > 2**23


def _nchw(case: Case) -> bool:
    return not case.channels_last


def _can(case: Case, convolve: str) -> bool:
    if convolve == "shared":
        return not case.per_sample
    if convolve == "matmul":
        return case.pointwise
    return convolve == "slices" or case.batch > 0


_forced: dict[str, str] = {}


@contextlib.contextmanager
def force(scale: str | None = None, convolve: str | None = None) -> Iterator[None]:
    """Overrule the table within a ``with`` block, for experiments (not thread-safe).

    Where the forced form cannot compute a case at all (``matmul`` of a 3x3 kernel,
    ``shared`` with a kernel attention), the table decides as ever.

    Raises:
        ValueError: for a name that no plan has.

    Example:
        >>> with force(convolve="grouped"):
        ...     y = network(x)
    """
    names = {name: get_args(hint) for name, hint in get_type_hints(Plan).items()}
    chosen = {"scale": scale, "convolve": convolve}
    for name, value in chosen.items():
        if value is not None and value not in names[name]:
            raise ValueError(f"{name} must be one of {names[name]}, got {value!r}")
    before = dict(_forced)
    _forced.update({name: value for name, value in chosen.items() if value})
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)
