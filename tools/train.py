"""Train a detector; the flags are those of MMDetection's own tools/train.py."""

import argparse
import os

from flags import add_arguments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("config", help="config file")
    parser.add_argument("--amp", action="store_true", help="mixed precision (GPU)")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by batch size / auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        type=os.path.expanduser,
        metavar="CHECKPOINT",
        help="continue from this checkpoint, or without a value from the latest one "
        "in the work dir, if there is one",
    )
    add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from odconv_det.plugin.training import train  # seconds, which --help need not wait

    train(args)


if __name__ == "__main__":
    main()
