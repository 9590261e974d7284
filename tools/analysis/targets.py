"""What the project wants to reach, beside what was measured."""

import json
from pathlib import Path
from typing import NamedTuple

__all__ = ["TARGETS", "Target", "table"]

STOCK = ("static stock",)
FUSED = ("static fused, channels_last", "static fused, NCHW")  # the faster of the two
R50, MOBILE = "resnet50", "mobilenetv2"
SMALL, LARGE = (224, 224), (800, 1333)


class Target(NamedTuple):
    """The largest ratio of a variant's time or bytes to a static one's, 1x and 4x."""

    what: str
    file: str
    network: str
    size: tuple[int, int]
    variant: str
    against: tuple[str, ...]
    ratios: tuple[float, float]


TARGETS = (
    Target("fused", "inference", R50, LARGE, "fused {}x", STOCK, (0.63, 0.65)),
    Target("fused", "inference", R50, LARGE, "fused {}x", FUSED, (1.06, 1.08)),
    Target("fused", "inference", MOBILE, LARGE, "fused {}x", STOCK, (0.45, 0.48)),
    Target("fused", "inference", MOBILE, LARGE, "fused {}x", FUSED, (1.28, 1.30)),
    Target("fused", "inference", R50, SMALL, "fused {}x", STOCK, (1.05, 1.20)),
    Target("fused", "inference", MOBILE, SMALL, "fused {}x", STOCK, (0.70, 0.80)),
    Target("not fused", "inference", R50, LARGE, "ours {}x", STOCK, (1.05, 1.08)),
    Target("not fused", "inference", MOBILE, LARGE, "ours {}x", STOCK, (1.05, 1.08)),
    Target("training step", "training", R50, LARGE, "ours {}x", STOCK, (1.05, 1.08)),
    Target("training step", "training", MOBILE, LARGE, "ours {}x", STOCK, (1.05, 1.08)),
    *(
        Target(what, "memory", network, (320, 320), variant, STOCK, (limit, limit))
        for what, variant, limit in (
            ("bytes for backward", "ours {}x", 0.60),
            ("bytes for backward, BN not folded", "ours {}x, BN not folded", 1.05),
        )
        for network in (R50, MOBILE)
    ),
)


def table(folder: Path) -> str:
    """Markdown: one row for each target, from the measurements in the folder."""
    lines = [
        "| CPU | against | 1x | target | 4x | target |",
        "|---|---|---|---|---|---|",
    ]
    for target in TARGETS:
        cells = []
        for number, limit in zip((1, 4), target.ratios, strict=True):
            ratio = _ratio(folder, target, number)
            shown = f"{ratio:.2f}"
            missed = round(ratio, 2) > limit
            cells += [f"**{shown}**" if missed else shown, f"{limit:.2f}"]
        height, width = target.size
        case = f"{target.network} {height}x{width}, {target.what}"
        against = "static stock" if target.against == STOCK else "static fused"
        lines.append(f"| {case} | {against} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(folder: Path, target: Target, number: int) -> float:
    results = json.loads((folder / f"{target.file}.json").read_text())["results"]
    values = {
        record["variant"]: record.get("milliseconds", record.get("saved_bytes"))
        for record in results
        if record["network"] == target.network and tuple(record["size"]) == target.size
    }
    own = values[target.variant.format(number)]
    return own / min(values[name] for name in target.against)
