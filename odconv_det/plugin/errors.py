"""How the tools tell a person what is wrong: one line, and an exit status."""

import errno
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from odconv_det.checkpoints import CheckpointError

__all__ = ["ToolError", "local_rank", "one_line_errors"]


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ToolError(Exception):
    """A line for the person at the command line: what is wrong and what to do."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a person's error and a full disk into `error: ...` and exit status 2.

    In Python's development mode (`python -X dev`, or PYTHONDEVMODE=1 for the processes
    of a launcher) the traceback stands in front of the line.
    """
    try:
        yield
    except (ToolError, CheckpointError, OSError) as error:
        line = str(error)
        if isinstance(error, OSError):
            if error.errno not in _NO_ROOM:
                raise
            line = f"{error.strerror}: make room, and go on with --resume"
        # The processes of one machine fail together. The first one reports; launchers
        # end the others as soon as it is gone, well within these seconds.
        if local_rank() > 0:
            time.sleep(10)
        if sys.flags.dev_mode:
            traceback.print_exception(error)
        print("error:", " ".join(line.split()), file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def local_rank() -> int:
    """Number of this process on its machine, whatever started it."""
    names = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))
