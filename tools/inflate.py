"""Turn static ImageNet weights into the start of a config's dynamic backbone.

Takes a file of torchvision, timm (ResNet), MMDetection or the authors, or an odconv://
address. Before training the backbone computes what the static one does, which is
checked on an image of noise before anything is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from flags import add_trust_argument
from torch import Tensor, nn

from odconv_det.checkpoints import (
    CheckpointError,
    check_suffix,
    inflate,
    largest_difference,
    locate,
    read_tensors,
    static_twin,
    write_tensors,
)
from odconv_det.layers import AttendedNorm, DynamicConv2d

TOLERANCE = 1e-4  # of each map's largest value; rounding gives about 3e-6


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("source", help="static weights: a file or an odconv:// address")
    parser.add_argument("config", help="config with the dynamic backbone")
    parser.add_argument(
        "output", type=Path, help="the .safetensors or .pth to write, for init_cfg"
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=0.1,
        help="difference of a bank's kernels, relative to their standard deviation; it "
        "does not change what the network computes (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.noise <= 1:
        parser.error(f"--noise must be from 0 to 1, got {args.noise}")
    return args


def build_backbone(config: str) -> nn.Module:
    """The backbone of ``config``, built but not initialised, in eval mode."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    from odconv_det.plugin.building import config_errors
    from odconv_det.plugin.cli import read_config
    from odconv_det.plugin.errors import ToolError

    try:
        cfg = read_config(config)
        if "backbone" not in cfg.get("model", {}):
            raise ToolError("there is no model with a backbone")
        register_all_modules(init_default_scope=True)
        with config_errors(cfg):
            backbone = MODELS.build(cfg.model.backbone)
    except ToolError as error:
        raise CheckpointError(f"{config}: {error}") from error
    if not any(isinstance(m, DynamicConv2d | AttendedNorm) for m in backbone.modules()):
        raise CheckpointError(
            f"the backbone of {config} is static, and takes static weights as they are"
        )
    backbone.init_cfg = None  # its weights are what is being made
    backbone.eval()
    return backbone


def check_finite(source: str, tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError for weights that were saved after a run had diverged."""
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{source} has infinite or undefined numbers in {key}: take another "
                "file"
            )


def start(
    static: dict[str, Tensor], backbone: nn.Module, noise: float, seed: int
) -> tuple[dict[str, Tensor], float]:
    """The inflated state dict, and how far its function is from the static one."""
    state = inflate(static, backbone, noise=noise, seed=seed)
    backbone.load_state_dict(state)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    difference = largest_difference(static_twin(static, backbone), backbone, image)
    if not difference < TOLERANCE:
        raise CheckpointError(
            f"the inflated weights compute other maps ({difference:.0e} of the largest "
            "value): please report this"
        )
    return state, difference


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        check_suffix(args.output, args.source)  # before a download
        static = read_tensors(locate(args.source))
        check_finite(args.source, static)
        backbone = build_backbone(args.config)
        state, difference = start(static, backbone, args.noise, args.seed)
        meta = {"format": "pt", "source": args.source, "noise": str(args.noise)}
        write_tensors(args.output, state, meta)
    except (CheckpointError, FileNotFoundError, ValueError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(
        f"{args.output}: {len(state)} tensors of {type(backbone).__name__}; its maps "
        f"equal the static network's to {difference:.0e}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
