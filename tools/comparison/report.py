"""What came out: one JSON file, tables, a plot and the page of the documentation."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from comparison.backbones import BACKBONES, STATIC
from odconv_det.checkpoints.files import whole_file

__all__ = ["content", "differences", "plot", "rendered", "save", "table", "write_docs"]

Result = Mapping[str, Any]
Content = Mapping[str, Any]

METRICS = {"box_ap": "box AP", "box_ap50": "box AP50", "mask_ap": "mask AP"}


def content(
    results: Sequence[Result], command: str, counts: Mapping[str, int]
) -> dict[str, Any]:
    """Results of runs with one recipe as what :func:`save` writes."""
    machines: list[Any] = []
    for result in results:
        if result["machine"] not in machines:
            machines.append(result["machine"])
    common = ("identity", "machine")
    return dict(
        command=command,
        machines=machines,
        counts=dict(counts),
        recipe=results[0]["identity"]["recipe"],
        runs=[{k: v for k, v in r.items() if k not in common} for r in results],
    )


def save(folder: Path, name: str, content: Content) -> None:
    """Write ``<name>.json`` and ``<name>.png`` into the folder."""
    text = json.dumps(content, indent=1)
    # One run a line: readable, and a change shows as one.
    text = re.sub(r"\n {3,}|\n {2}(?=[\]}])", " ", text)
    with whole_file(folder / f"{name}.json") as part:
        part.write_text(text + "\n")
    plot(content, folder / f"{name}.png")


def table(content: Content) -> str:
    """Markdown: a row for each backbone, with the mean and the range over seeds."""
    head = [
        "backbone",
        *METRICS.values(),
        "parameters, backbone",
        "parameters, all",
        "time per iteration",
        "ratio to static",
    ]
    lines = [_row(head), "|---" * len(head) + "|"]
    for backbone, runs in _by_backbone(content).items():
        cells = [BACKBONES[backbone].title]
        for key in METRICS:
            cells.append(_spread([100 * run[key] for run in runs], 1))
        for key in ("backbone_parameters", "parameters"):
            cells.append(f"{runs[0][key] / 1e6:.2f} M")
        seconds = mean(run["seconds_per_iteration"] for run in runs)
        cells.append(f"{1000 * seconds:.0f} ms")
        ratios = list(_against_static(content, backbone, "seconds_per_iteration"))
        cells.append(_spread([own / static for own, static in ratios], 2))
        lines.append(_row(cells))
    return "\n".join(lines)


def differences(content: Content) -> str:
    """Markdown: each backbone less static, seed by seed; empty without static."""
    seeds = [run["seed"] for run in _by_backbone(content).get(STATIC, [])]
    if not seeds:
        return ""
    kinds = {
        "box AP": ("box_ap", 100, 1),
        "mask AP": ("mask_ap", 100, 1),
        "training loss": ("loss", 1, 3),
    }
    head = ["less static", *kinds, "box AP: seeds above, below"]
    lines = [_row(head), "|---" * len(head) + "|"]
    for backbone in _by_backbone(content):
        if backbone == STATIC:
            continue
        cells = [BACKBONES[backbone].title]
        for key, factor, digits in kinds.values():
            pairs = _against_static(content, backbone, key)
            steps = [factor * (own - static) for own, static in pairs]
            each = ", ".join(f"{step:+.{digits}f}" for step in steps)
            cells.append(f"{mean(steps):+.{digits}f} ({each})" if steps else "")
        pairs = _against_static(content, backbone, "box_ap")
        above = sum(own > static for own, static in pairs)
        below = sum(own < static for own, static in pairs)
        lines.append(_row([*cells, f"{above}, {below}"]))
    return "\n".join(lines)


def settings(content: Content) -> str:
    """Command, data and machine in one paragraph."""
    recipe, counts = content["recipe"], content["counts"]
    size = recipe["scenes"]["layout"]["size"]
    jobs = sorted({run["jobs"] for run in content["runs"]})
    seeds = sorted({run["seed"] for run in content["runs"]})
    facts = [
        f"`{content['command']}`",
        f"{counts['train_scenes']} train scenes with {counts['train_garments']} "
        f"garments and {counts['test_scenes']} test scenes with "
        f"{counts['test_garments']}, {size} x {size} px",
        f"{recipe['iterations']} iterations of {recipe['batch']} scenes",
        f"seeds {', '.join(map(str, seeds))}",
        f"{' or '.join(map(str, jobs))} runs at a time",
        *(
            ", ".join(f"{key} {value}" for key, value in machine.items())
            for machine in content["machines"]
        ),
    ]
    return "; ".join(facts) + "."


def plot(content: Content, path: Path) -> None:
    """AP of every run by backbone, and its mean against the time of an iteration."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = _by_backbone(content)
    titles = [BACKBONES[backbone].title for backbone in groups]
    figure, (runs_axis, time_axis) = plt.subplots(1, 2, figsize=(11, 4.2))
    for shift, (key, label) in zip((-0.1, 0.1), _PLOTTED.items(), strict=True):
        colour = f"C{int(shift > 0)}"
        for place, runs in enumerate(groups.values()):
            values = [100 * run[key] for run in runs]
            spots = [place + shift] * len(values)
            runs_axis.plot(spots, values, "o", color=colour, alpha=0.6)
            average = mean(values)
            ends = (place + shift - 0.09, place + shift + 0.09)
            name = label if place == 0 else None
            runs_axis.plot(ends, (average, average), color=colour, label=name)
    runs_axis.set_xticks(range(len(titles)), titles, rotation=20, fontsize=8)
    runs_axis.set_ylabel("AP (dot: a seed; line: mean)")
    runs_axis.legend(fontsize=8)
    for title, runs in zip(titles, groups.values(), strict=True):
        seconds = mean(run["seconds_per_iteration"] for run in runs)
        values = [100 * run["box_ap"] for run in runs]
        average = mean(values)
        reach = [[average - min(values)], [max(values) - average]]
        time_axis.errorbar(1000 * seconds, average, reach, fmt="o", label=title)
    time_axis.legend(fontsize=8)
    time_axis.set_xlabel("training iteration, ms (median)")
    time_axis.set_ylabel("box AP (mean and range over seeds)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


_PLOTTED = {key: METRICS[key] for key in ("box_ap", "mask_ap")}


def write_docs(page: Path) -> None:
    """Put what ``comparison/*.json`` beside the page say between the page's markers.

    The pictures are drawn anew, too. Tables stand between ``<!-- comparison: NAME -->``
    and ``<!-- end -->``.

    Raises:
        FileNotFoundError: if a marker names a comparison that is not there.
    """
    page.write_text(rendered(page))
    for file in (page.parent / page.stem).glob("*.json"):
        plot(json.loads(file.read_text()), file.with_suffix(".png"))


def rendered(page: Path) -> str:
    """The page as its results say."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        found = json.loads((page.parent / page.stem / f"{name}.json").read_text())
        parts = [
            f"<!-- comparison: {name} -->",
            table(found),
            "",
            differences(found),
            "",
            f"![AP by backbone and by time]({page.stem}/{name}.png)",
            "",
            settings(found),
            "<!-- end -->",
        ]
        return "\n".join(parts)

    pattern = r"<!-- comparison: ([\w-]+) -->\n.*?<!-- end -->"
    return re.sub(pattern, block, page.read_text(), flags=re.DOTALL)


def _by_backbone(content: Content) -> dict[str, list[Result]]:
    """Runs of each backbone by seed, in the order of :data:`BACKBONES`."""
    groups = {
        backbone: sorted(
            (run for run in content["runs"] if run["backbone"] == backbone),
            key=lambda run: run["seed"],
        )
        for backbone in BACKBONES
    }
    return {backbone: runs for backbone, runs in groups.items() if runs}


def _against_static(
    content: Content, backbone: str, key: str
) -> list[tuple[float, float]]:
    """Pairs of a backbone's value and static's, for each seed that both have."""
    groups = _by_backbone(content)
    static = {run["seed"]: run[key] for run in groups.get(STATIC, [])}
    return [
        (run[key], static[run["seed"]])
        for run in groups[backbone]
        if run["seed"] in static
    ]


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    low, high = (f"{end:.{digits}f}" for end in (min(values), max(values)))
    average = f"{mean(values):.{digits}f}"
    return average if len(values) == 1 else f"{average} ({low} to {high})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
