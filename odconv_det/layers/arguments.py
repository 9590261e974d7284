"""Checks of what a user gives a layer; the message has the value."""

from __future__ import annotations

import math
from typing import SupportsIndex

__all__ = ["at_least", "at_least_pair", "fraction", "one_of", "positive"]

Pair = tuple[int, int]


def at_least(minimum: int, name: str, value: SupportsIndex) -> int:
    """``value`` as an int, if it is an integer of at least ``minimum``."""
    if not _is_int(value) or value < minimum:
        raise ValueError(f"{name} must be an int of at least {minimum}, got {value!r}")
    return int(value)


def at_least_pair(minimum: int, name: str, value: object) -> Pair:
    """A pair of ints of at least ``minimum``, from one int or from a pair."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(_is_int(v) and v >= minimum for v in pair):
        raise ValueError(
            f"{name} must be an int or a pair of ints of at least {minimum}, "
            f"got {value!r}"
        )
    return int(pair[0]), int(pair[1])


def fraction(name: str, value: float) -> float:
    """``value`` if it is a number in (0, 1]."""
    if not (isinstance(value, int | float) and 0 < value <= 1):
        raise ValueError(f"{name} must be in (0, 1], got {value!r}")
    return float(value)


def positive(name: str, value: float) -> float:
    """``value`` if it is a finite number above 0."""
    if not (isinstance(value, int | float) and value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be above 0 and finite, got {value!r}")
    return float(value)


def one_of(choices: tuple[str, ...], name: str, value: str) -> str:
    """``value`` if it is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
    return value


def _is_int(value: object) -> bool:
    # NumPy's integers count as well, True and False do not.
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)
