"""How the tools end when somebody stops them: one line, and an exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from odconv_det.plugin.errors import local_rank

__all__ = ["end_when_stopped"]

# Ctrl-C, and what Slurm and Kubernetes send some seconds before they kill.
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# After these it is tried once more, where the first time had no effect.
SECONDS = 5


@contextmanager
def end_when_stopped(advice: str) -> Iterator[None]:
    """End orderly on Ctrl-C and SIGTERM, with ``interrupted: ADVICE`` for a traceback.

    The exit status is 128 and the signal's number, as shells have it. Worker processes
    forked within leave Ctrl-C, which reaches them too, to this process, and say nothing
    when it is gone before they are. A signal that is ignored, as shells have it for
    jobs in the background, stays so. Where SIGTERM is handled already, by whoever runs
    a tool in its own process, nothing is done.

    To be used in the main thread.

    Raises:
        SystemExit: after one of these signals.
    """
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    process, received = os.getpid(), []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            _stop_worker(number)
            return
        if number in WORDS:
            received.append(number)
        # Workers may be stopped as well, and their loader's complaint would come in
        # the middle of what is done here.
        signal.signal(signal.SIGCHLD, _nothing)
        # Python drops what is raised in a finalizer or while it forks, and complains.
        sys.unraisablehook = lambda _: None
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        # A kind of exception that nobody on the way takes for an error to go on after.
        raise KeyboardInterrupt

    def report(kind: type[BaseException], *error: Any) -> None:
        # A thread of a worker hands over its tensors and may still wait for this
        # process to take one.
        if os.getpid() == process or not issubclass(kind, (ConnectionError, EOFError)):
            usual(kind, *error)

    usual, sys.excepthook = sys.excepthook, report
    numbers = (*WORDS, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException:
        if not received:
            raise
        # Launchers pass on what the terminal has sent already.
        before = dict.fromkeys(numbers, _nothing)
        if local_rank() == 0:
            line = f"{WORDS[received[0]]}: {advice}"
            print(line, file=sys.stderr, flush=True)
        raise SystemExit(128 + received[0]) from None
    finally:
        sys.excepthook = usual
        for number, handler in before.items():
            signal.signal(number, handler)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal by doing nothing.

    Python complains of one that is on its way when SIG_DFL or SIG_IGN is set.
    """


def _stop_worker(number: int) -> None:
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
