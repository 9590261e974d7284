"""Convert a file of the authors' release to this project's names.

Takes ImageNet files (.pth.tar) and MMDetection 2.x detectors, by path or odconv://
address; drops the classifier and everything but the weights; checks that they cover the
network of a config before anything is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flags import add_trust_argument
from torch import Tensor, nn

from odconv_det.checkpoints import (
    CheckpointError,
    check_suffix,
    from_release,
    locate,
    mismatch,
    read_tensors,
    under,
    write_tensors,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("source", help="file of the release, or an odconv:// address")
    parser.add_argument(
        "output",
        type=Path,
        help="the .safetensors or .pth to write",
    )
    parser.add_argument(
        "--config", help="config whose detector, or whose backbone, it must cover"
    )
    add_trust_argument(parser)
    return parser.parse_args(argv)


def build_detector(config: str) -> nn.Module:
    """The detector of ``config``, without its weights."""
    from odconv_det.plugin.building import build_on_meta
    from odconv_det.plugin.cli import read_config
    from odconv_det.plugin.errors import ToolError

    try:
        return build_on_meta(read_config(config))
    except ToolError as error:
        raise CheckpointError(f"{config}: {error}") from error


def verify(source: str, tensors: dict[str, Tensor], config: str) -> str:
    """What the tensors cover, in words; CheckpointError if that is not all of it."""
    detector = build_detector(config)
    network = detector if under(tensors, "backbone.") else detector.backbone
    name = type(network).__name__
    if difference := mismatch(network.state_dict(), tensors):
        raise CheckpointError(
            f"{source} does not cover {name} of {config}: {difference}; take the file "
            "or the config that belongs to the other"
        )
    return f"all {len(tensors)} tensors of {name} in {config}"


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        check_suffix(args.output, args.source)  # before a download
        tensors = from_release(read_tensors(locate(args.source)))
        covers = "not verified: no --config was given"
        if args.config:
            covers = verify(args.source, tensors, args.config)
        write_tensors(args.output, tensors, {"format": "pt", "source": args.source})
    except (CheckpointError, FileNotFoundError, ValueError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(f"{args.output}: {len(tensors)} tensors ({covers})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
