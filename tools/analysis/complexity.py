"""Count parameters, multiply-adds and activations; no data, no weights, no GPU.

    complexity.py CONFIG        a whole detector, part by part
    complexity.py --table       every network of the ODConv paper's tables

Multiply-adds are those of convolutions and matrix products, with the attention and the
mixing of the kernels of dynamic convolutions (the plain rule). The tables are Markdown;
`--table --out docs/model-zoo.md` writes them into the page.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

# MMDetection greets on the standard output, where the tables are to be alone.
with redirect_stdout(sys.stderr):
    from flags import ConfigOptions

    from odconv_det.checkpoints.files import whole_file
    from odconv_det.complexity import Complexity, Counts
    from odconv_det.plugin.building import build_on_meta
    from odconv_det.plugin.cli import load_config
    from odconv_det.plugin.complexity import (
        UncountableError,
        count_detector,
    )
    from odconv_det.plugin.errors import ToolError, one_line_errors
    from odconv_det.plugin.preflight import check_file, check_output

Size = tuple[int, int]


def main() -> None:
    args = parse_arguments()
    with one_line_errors(), redirect_stdout(sys.stderr):
        if args.json:
            check_output(args.json, "--json")
        try:
            content, text = count_table(args) if args.table else count_config(args)
        except UncountableError as error:
            raise ToolError(str(error)) from error
        if args.json:
            with whole_file(args.json) as part:
                part.write_text(json.dumps(content, indent=1) + "\n")
    print(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", help="of any detector")
    parser.add_argument("--table", action="store_true", help="the paper's tables")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="of the image as the network gets it, 800x1280 by default",
    )
    parser.add_argument(
        "--boxes", type=_positive, help="regions for the box heads, 1000 by default"
    )
    parser.add_argument(
        "--masks", type=_positive, help="regions for the mask heads, 100 by default"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help="change the config",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="integers, as JSON")
    parser.add_argument(
        "--out", type=Path, metavar="PAGE", help="write the tables into this page"
    )
    args = parser.parse_args()
    if bool(args.config) == args.table:
        parser.error("name a config, or pass --table")
    if args.table:
        for flag in ("size", "boxes", "masks", "cfg_options"):
            if getattr(args, flag) is not None:
                parser.error(f"--{flag.replace('_', '-')} is for a config")
    elif args.out:
        parser.error("--out is for --table")
    return args


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


def _size(text: str) -> Size:
    try:
        height, width = map(_positive, text.split("x"))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text} is not HEIGHTxWIDTH") from None
    return height, width


def count_table(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from analysis import zoo

    if args.out:
        check_file(str(args.out), "page", "name one with places for tables")
        try:
            page = zoo.rendered(args.out.read_text())
        except ValueError as error:
            raise ToolError(f"{args.out}: {error}") from error
        with whole_file(args.out) as part:
            part.write_text(page)
        text = f"written to {args.out}"
    else:
        text = zoo.markdown()
    return zoo.as_json() if args.json else {}, text


def count_config(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    config = load_config(
        argparse.Namespace(
            config=args.config,
            cfg_options=args.cfg_options,
            launcher="none",
            local_rank=0,
            work_dir=None,
        )
    )
    size = args.size or (800, 1280)
    regions = dict(boxes=args.boxes or 1000, masks=args.masks or 100)
    counted = count_detector(build_on_meta(config), size, **regions)
    parts = dict(_parts(counted))
    content = dict(
        config=args.config,
        size=list(size),
        **regions,
        total=vars(counted.total),
        parts={name: vars(counts) for name, counts in parts.items()},
    )
    return content, _report(args.config, size, regions, counted.total, parts)


def _parts(counted: Complexity) -> Iterator[tuple[str, Counts]]:
    """Parts of a detector, stages of its backbone, heads and stages of a cascade."""
    for part, counts in counted.children().items():
        yield part, counts
        if part not in ("backbone", "roi_head"):
            continue
        for child, inner in counted.children(part).items():
            yield child, inner
            stages = counted.children(child)
            if part == "roi_head" and all(_is_number(name) for name in stages):
                yield from stages.items()


def _is_number(name: str) -> bool:
    return name.rpartition(".")[2].isdecimal()


def _report(
    config: str,
    size: Size,
    regions: dict[str, int],
    total: Counts,
    parts: dict[str, Counts],
) -> str:
    height, width = size
    title = f"# {Path(config).stem}, one image of {height}x{width}"
    if any(name.startswith("roi_head.bbox_head") for name in parts):
        title += f", {regions['boxes']} boxes"
    if any(name.startswith("roi_head.mask_head") for name in parts):
        title += f", {regions['masks']} masks"
    rows = {"all": total, **parts}
    lines = [
        title,
        "",
        "| part | parameters | trainable | multiply-adds (G) | activations (M) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {counts.parameters:,} | {counts.trainable:,} "
        f"| {counts.multiply_adds / 10**9:.3f} | {counts.activations / 10**6:.3f} |"
        for name, counts in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
