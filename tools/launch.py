"""Start a script with torchrun: what dist_train.sh and dist_test.sh share.

Usage: launch.py GPUS SCRIPT [arguments]. For more than one machine the environment has
NNODES, NODE_RANK, MASTER_ADDR and PORT. torchrun's traceback is left out: what the
failed process printed says more.
"""

import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

ROOT = Path(__file__).resolve().parents[1]


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
        # torchrun has logged the rank; a negative code is the signal that ended it.
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
