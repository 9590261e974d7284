"""Start a script with torchrun: what dist_train.sh and dist_test.sh share.

Usage: launch.py GPUS SCRIPT [arguments]. For more than one machine the environment has
NNODES, NODE_RANK, MASTER_ADDR and PORT. torchrun's traceback is left out: what the
failed process printed says more.
"""

import os
import signal
import socket
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)
from torch.distributed.run import parse_args, run

ROOT = Path(__file__).resolve().parents[1]
TOOL_ERROR = 2  # the exit status after a line that has said everything


def report(error: ChildFailedError) -> int:
    """Say in the last line which process ended the job; returns the exit status."""
    rank, failure = error.get_first_failure()
    for other, candidate in error.failures.items():
        if _signal(candidate):  # without this one the others fail too
            rank, failure = other, candidate
            break
    if failure.exitcode == TOOL_ERROR:
        return failure.exitcode
    reason = "failed, see its messages above"
    if number := _signal(failure) or max(0, -failure.exitcode):
        reason = f"was ended by {signal.Signals(number).name}"
        if number == signal.SIGKILL:
            reason += ", as the system does when memory is out"
    message = f"error: process {rank} {reason}; the others were stopped"
    print(message, file=sys.stderr, flush=True)
    return max(failure.exitcode, 1)


def _signal(failure: ProcessFailure) -> int:
    """What somebody else than torchrun, which sends SIGTERM, ended it with, or 0."""
    if failure.exitcode - 128 in (signal.SIGINT, signal.SIGTERM):  # as the tools say it
        return failure.exitcode - 128
    if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
        return -failure.exitcode
    return 0


def main() -> int:
    gpus, *command = sys.argv[1:] or [""]
    environment = os.environ
    port = environment.get("PORT") or "29500"
    machines = environment.get("NNODES") or "1"
    machine = environment.get("NODE_RANK") or "0"
    problem = (
        _wrong_number(gpus)
        or (not command and "no script: give one behind the number of GPUs")
        or _wrong_machine(machine, machines)
        or (int(machine) == 0 and _wrong_port(port))
    )
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    arguments = [
        f"--nnodes={machines}",
        f"--node_rank={machine}",
        f"--master_addr={environment.get('MASTER_ADDR') or '127.0.0.1'}",
        f"--master_port={port}",
        f"--nproc_per_node={gpus}",
    ]
    # The processes find the package of this clone.
    path = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    try:
        run(parse_args([*arguments, *command]))
    except ChildFailedError as error:
        return report(error)
    except SignalException as stop:  # which the processes got as well, and answered
        return 128 + stop.sigval
    return 0


def _wrong_number(gpus: str) -> str | None:
    if gpus.isdecimal() and int(gpus) > 0:
        return None
    return (
        f"{gpus or repr(gpus)} is no number of GPUs: give how many processes to start"
    )


def _wrong_machine(machine: str, machines: str) -> str | None:
    """torchrun would wait for machines that never come."""
    if not machines.isdecimal() or int(machines) < 1:
        return f"NNODES={machines} is no number of machines: set it to 1 or more"
    if not machine.isdecimal() or int(machine) >= int(machines):
        return (
            f"NODE_RANK={machine} is none of NNODES={machines} machines, which are "
            "counted from 0"
        )
    return None


def _wrong_port(port: str) -> str | None:
    """What is wrong with the port at which the processes are to meet."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return f"PORT={port} is no port: set PORT to a number from 1024 to 65535"
    with socket.socket() as probe:
        # As torch does: a port that a run has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            return (
                f"port {port} cannot be used ({error.strerror}), maybe because another "
                "run has it: set PORT to another number"
            )
    return None


if __name__ == "__main__":
    raise SystemExit(main())
