"""What tests with several processes share."""

import contextlib
import random
import socket
from pathlib import Path

__all__ = ["ROOT", "free_port"]

ROOT = Path(__file__).parents[2]


def free_port() -> str:
    """A port that nobody has, and that the system gives nobody before it is used.

    Where a program does not care, Linux takes a port from 32768 on.
    """
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return str(port)
