"""torchrun without its traceback: what the failed process printed says more.

Takes torchrun's own arguments; dist_train.sh and dist_test.sh start it.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main() -> int:
    try:
        run(parse_args(sys.argv[1:]))
    except ChildFailedError as error:
        # torchrun has logged the rank; a negative code is the signal that ended it.
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
