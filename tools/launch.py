"""Start a script with torchrun: what dist_train.sh and dist_test.sh share.

Usage: launch.py GPUS SCRIPT [arguments]. For more than one machine the environment has
NNODES, NODE_RANK, MASTER_ADDR and PORT. torchrun's traceback is left out: what the
failed process printed says more.
"""

import os
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

ROOT = Path(__file__).resolve().parents[1]
TOOL_ERROR = 2  # the exit status after a line that has said everything


def report(error: ChildFailedError) -> int:
    """Say in the last line which process ended the job; returns the exit status."""
    rank, failure = error.get_first_failure()
    for other, candidate in error.failures.items():
        # Without the killed one the others fail too. torchrun itself sends SIGTERM.
        if candidate.exitcode < 0 and candidate.exitcode != -signal.SIGTERM:
            rank, failure = other, candidate
            break
    if failure.exitcode == TOOL_ERROR:
        return failure.exitcode
    reason = "failed, see its messages above"
    if failure.exitcode < 0:
        reason = f"was ended by {failure.signal_name()}"
        if failure.exitcode == -signal.SIGKILL:
            reason += ", as the system does when memory is out"
    message = f"error: process {rank} {reason}; the others were stopped"
    print(message, file=sys.stderr, flush=True)
    return max(failure.exitcode, 1)


def main() -> int:
    gpus, *command = sys.argv[1:]
    environment = os.environ
    arguments = [
        f"--nnodes={environment.get('NNODES') or 1}",
        f"--node_rank={environment.get('NODE_RANK') or 0}",
        f"--master_addr={environment.get('MASTER_ADDR') or '127.0.0.1'}",
        f"--master_port={environment.get('PORT') or 29500}",
        f"--nproc_per_node={gpus}",
    ]
    # The processes find the package of this clone.
    path = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    try:
        run(parse_args([*arguments, *command]))
    except ChildFailedError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
