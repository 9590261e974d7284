"""Evaluate a detector; the flags are those of MMDetection's own tools/test.py."""

import argparse
import os

from flags import add_arguments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint to evaluate")
    parser.add_argument(
        "--out",
        type=os.path.expanduser,
        help="write the predictions to this .pkl file",
    )
    parser.add_argument("--show", action="store_true", help="show painted images")
    parser.add_argument(
        "--show-dir", help="write painted images to this folder below the work dir"
    )
    parser.add_argument(
        "--wait-time", type=float, default=2, help="seconds an image is shown"
    )
    parser.add_argument(
        "--tta", action="store_true", help="merge the boxes of mirrored images"
    )
    parser.add_argument(
        "--fuse", action="store_true", help="test the fused form: same AP, less time"
    )
    add_arguments(parser)
    args = parser.parse_args()
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        parser.error(f"--out must name a .pkl or .pickle file, got {args.out}")
    return args


def main() -> None:
    args = parse_args()
    from odconv_det.plugin.testing import test  # seconds, which --help need not wait

    test(args)


if __name__ == "__main__":
    main()
