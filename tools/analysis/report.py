"""Results as files, tables and plots."""

import argparse
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

import odconv_det
from analysis import targets
from odconv_det.checkpoints.files import whole_file

__all__ = ["LEGEND", "line", "machine", "plot", "save", "table", "write_docs"]

LEGEND = (
    "ratio to static stock (quartiles over rounds; median time), in memory the bytes "
    "kept for backward (peak of a step); authors: the release's algorithm, ours: the "
    "network as built, fused: after fuse(); paper: the ratio that its authors report"
)

Record = Mapping[str, Any]
MIB = 2**20


def machine(device: str) -> dict[str, str]:
    """What the numbers were measured on."""
    facts = {
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "odconv_det": odconv_det.__version__,
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cudnn"] = str(torch.backends.cudnn.version())
    return facts


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def save(
    folder: Path, name: str, results: Sequence[Record], args: argparse.Namespace
) -> None:
    """Write ``<name>.json`` into the folder; it is whole at every moment."""
    content = dict(
        command=f"tools/analysis/benchmark.py {_command(args)}",
        machine=machine(args.device),
        device=args.device,
        dtype=args.dtype,
        rounds=args.rounds,
        results=list(results),
    )
    text = json.dumps(content, indent=1)
    # One record a line: readable, and a change shows as one.
    text = re.sub(r"\n {3,}|\n {2}(?=\})", " ", text)
    with whole_file(folder / f"{name}.json") as part:
        part.write_text(text + "\n")


def _command(args: argparse.Namespace) -> str:
    parts = [args.what]
    for key in ("network", "kernel_num"):
        parts += [f"--{key.replace('_', '-')}", *map(str, getattr(args, key))]
    if args.size:
        parts += ["--size", *("x".join(map(str, size)) for size in args.size)]
    if args.batch:
        parts += ["--batch", str(args.batch)]
    parts += ["--device", args.device, "--dtype", args.dtype]
    parts += ["--rounds", str(args.rounds)]
    if args.name:
        parts += ["--name", args.name]
    parts += [
        f"--{flag}" for flag in ("compile", "graphs", "triton") if vars(args)[flag]
    ]
    return " ".join(parts)


def line(record: Record) -> str:
    """A record in one line, to watch a run."""
    height, width = record["size"]
    start = f"{record['network']} {height}x{width} batch {record['batch']}"
    if "milliseconds" in record:
        value = f"{record['milliseconds']:.1f} ms, {record['ratio']:.2f}"
    else:
        value = f"{record['saved_bytes'] / MIB:.1f} MiB, {record['ratio']:.2f}"
    return f"{start}, {record['variant']}: {value}"


MANY = 8  # cases: more columns than that nobody can read


def table(results: Iterable[Record]) -> str:
    """Markdown: a row for each variant and a column for each case.

    Where there are many cases it is the other way round, with the ratios alone.
    """
    tables: dict[tuple[str, str], list[Record]] = {}
    results = list(results)
    many = len({_case(record) for record in results}) > MANY
    for record in results:
        key = (record["network"], record["task"]) if many else ("", "")
        tables.setdefault(key, []).append(record)
    return "\n\n".join(_table(records, many) for records in tables.values())


def _table(records: Sequence[Record], many: bool) -> str:
    cases = list(dict.fromkeys(map(_case, records)))
    variants = list(dict.fromkeys(record["variant"] for record in records))
    cells = {
        (record["variant"], _case(record)): f"{record['ratio']:.2f}"
        if many
        else _cell(record)
        for record in records
    }
    rows, columns = (cases, variants) if many else (variants, cases)
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for row in rows:
        places = ((column, row) if many else (row, column) for column in columns)
        values = (cells.get(place, "") for place in places)
        lines.append(f"| {row} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _case(record: Record) -> str:
    height, width = record["size"]
    batch = f", batch {record['batch']}" if record["batch"] != 1 else ""
    return f"{record['network']} {height}x{width}{batch}"


def _cell(record: Record) -> str:
    if "milliseconds" in record:
        spread = f"{record['low']:.2f}-{record['high']:.2f}"
        paper = f"; paper {record['paper']:.2f}" if "paper" in record else ""
        time = f"{record['milliseconds']:.0f} ms"
        return f"{record['ratio']:.2f} ({spread}; {time}{paper})"
    saved, peak = record["saved_bytes"] / MIB, record["peak_bytes"] / MIB
    return f"{record['ratio']:.3f} ({saved:.0f} MiB; peak {peak:.0f})"


def plot(results: Iterable[Record], path: Path) -> None:
    """Ratios as bars, or as curves where one dimension was scaled."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    results = list(results)
    panels = _panels(results)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6 * columns, 4.2 * rows), squeeze=False
    )
    for axis, (title, kind, records) in zip(axes.flat, panels, strict=False):
        draw = _bars if kind == "bars" else _curves
        draw(axis, records, kind)
        line = axis.axvline if kind == "bars" else axis.axhline
        line(1.0, color="black", linewidth=0.8, linestyle=":")
        axis.set_title(title, fontsize=10)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panels(results: list[Record]) -> list[tuple[str, str, list[Record]]]:
    panels = []
    ordered = sorted(results, key=lambda r: (r["network"], r["task"]))
    for (network, task), group in groupby(
        ordered, key=lambda r: (r["network"], r["task"])
    ):
        records = list(group)
        sizes = {tuple(r["size"]) for r in records}
        batches = {r["batch"] for r in records}
        if task == "kernels":
            panels.append((f"{network}, kernel number", "kernels", records))
        elif len(sizes) > 2 and len(batches) > 2:
            by_size = [r for r in records if r["batch"] == 1]
            by_batch = [r for r in records if r["size"] == [224, 224]]
            by_size = [r for r in by_size if r["size"] != [224, 224]]
            panels.append((f"{network}, batch 1, input size", "side", by_size))
            panels.append((f"{network}, 224 px, batch size", "batch", by_batch))
        else:
            for case in dict.fromkeys(map(_case, records)):
                chosen = [r for r in records if _case(r) == case]
                panels.append((f"{case}, {task}", "bars", chosen))
    return panels


def _bars(axis: Any, records: list[Record], kind: str) -> None:
    names = [record["variant"] for record in records]
    ratios = [record["ratio"] for record in records]
    axis.barh(range(len(names)), ratios, color=[_colour(name) for name in names])
    for row, ratio in enumerate(ratios):
        axis.text(ratio, row, f" {ratio:.2f}", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15 * max(ratios))
    axis.set_xlabel("ratio to static stock")


def _curves(axis: Any, records: list[Record], kind: str) -> None:
    if kind == "kernels":
        _kernel_curves(axis, records)
    else:
        for name in dict.fromkeys(record["variant"] for record in records):
            chosen = [record for record in records if record["variant"] == name]
            xs = [r["size"][0] if kind == "side" else r["batch"] for r in chosen]
            ys = [record["ratio"] for record in chosen]
            style = "--" if name.endswith(" 1x") or "channels_last" in name else "-"
            axis.plot(xs, ys, style, marker="o", label=name, color=_colour(name))
        axis.set_xlabel("side of the image, px" if kind == "side" else "batch size")
        if kind == "batch":
            axis.set_xscale("log", base=2)
    axis.set_ylabel("ratio to static stock")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7)


def _kernel_curves(axis: Any, records: list[Record]) -> None:
    found = re.compile(r"(\w+) (\d+)x")
    for size in dict.fromkeys(tuple(r["size"]) for r in records):
        for form, style in (("authors", ":"), ("ours", "--"), ("fused", "-")):
            points = sorted(
                (int(match[2]), record["ratio"])
                for record in records
                if tuple(record["size"]) == size
                and (match := found.fullmatch(record["variant"]))
                and match[1] == form
            )
            xs, ys = zip(*points, strict=True)
            label = f"{form}, {size[0]}x{size[1]}"
            axis.plot(xs, ys, style, marker="o", label=label)
    axis.set_xlabel("kernels in the bank")


def _colour(variant: str) -> str:
    kinds = ("static", "authors", "ours", "fused", "fused, compiled")
    kind = next((k for k in reversed(kinds) if variant.startswith(k)), "static")
    return f"C{kinds.index(kind)}"


def write_docs(page: Path) -> None:
    """Put what ``benchmarks/*.json`` beside the page say between the page's markers.

    The pictures are drawn anew, too.

    A table stands between ``<!-- benchmark: NAME -->`` and ``<!-- end -->``, and
    ``targets`` is the name of the table that compares them with the targets.

    Raises:
        FileNotFoundError: if a marker names a measurement that is not there.
    """
    page.write_text(rendered(page))
    for file in (page.parent / "benchmarks").glob("*.json"):
        plot(json.loads(file.read_text())["results"], file.with_suffix(".png"))


def rendered(page: Path) -> str:
    """The page as its measurements say."""
    folder = page.parent / "benchmarks"

    def block(match: re.Match[str]) -> str:
        if match[1] == "targets":
            lines = [targets.table(folder)]
        else:
            content = json.loads((folder / f"{match[1]}.json").read_text())
            facts = ", ".join(f"{k} {v}" for k, v in content["machine"].items())
            lines = [
                table(content["results"]),
                "",
                f"`{content['command']}`; {facts}.",
                "",
                f"![{match[1]}](benchmarks/{match[1]}.png)",
            ]
        marker = f"<!-- benchmark: {match[1]} -->"
        return "\n".join([marker, *lines, "<!-- end -->"])

    pattern = r"<!-- benchmark: ([\w-]+) -->\n.*?<!-- end -->"
    return re.sub(pattern, block, page.read_text(), flags=re.DOTALL)
