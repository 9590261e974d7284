"""How the tools tell a person what is wrong: one line, and an exit status."""

import errno
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from odconv_det.checkpoints import CheckpointError

__all__ = ["NO_ROOM", "ToolError", "local_rank", "one_line_errors"]


# The disk, the quota, the greatest size of a file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ToolError(Exception):
    """A line for the person at the command line: what is wrong and what to do."""


@contextmanager
def one_line_errors(advice: str = "start again") -> Iterator[None]:
    """Turn a person's error and one of the disk into `error: ...` and exit status 2.

    A package that a part of the config needs and that is not installed is one as well.
    `advice` is what to do once the disk has room.

    In Python's development mode (`python -X dev`, or PYTHONDEVMODE=1 for the processes
    of a launcher) the traceback stands in front of the line.
    """
    # On a full disk the log cannot be written either, and each of its lines would be a
    # traceback until the run ends.
    logging.raiseExceptions = sys.flags.dev_mode
    try:
        yield
    except (ToolError, CheckpointError, OSError, ImportError) as error:
        line = _spell(error, advice)
        if line is None:
            raise
        # The processes of one machine fail together. The first one reports; launchers
        # end the others as soon as it is gone, well within these seconds.
        if local_rank() > 0:
            time.sleep(10)
        if sys.flags.dev_mode:
            traceback.print_exception(error)
        print("error:", " ".join(line.split()), file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _spell(error: Exception, advice: str) -> str | None:
    """What a person can do about it; ``None`` for what is no person's doing."""
    if isinstance(error, ImportError):  # of a package, where it says what to install
        return str(error) if "install" in str(error) else None
    if not isinstance(error, OSError):
        return str(error)
    if error.errno in NO_ROOM:
        return f"{error.strerror}: make room, and {advice}"
    if error.filename is None:
        return None
    return (
        f"{error.filename} cannot be used ({error.strerror}): see that it is there and "
        "yours to read or write, or name another"
    )


def local_rank() -> int:
    """Number of this process on its machine, whatever started it."""
    names = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
    return int(next((os.environ[name] for name in names if os.environ.get(name)), 0))
