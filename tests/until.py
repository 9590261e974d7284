"""Waiting for what another process does."""

import time
from collections.abc import Callable

__all__ = ["until"]


def until(holds: Callable[[], bool], seconds: float = 120) -> bool:
    """Wait until it holds; false if it does not within this time.

    The time is more than enough on a busy machine: only what never happens takes it.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
