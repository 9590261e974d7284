"""Every network of the paper's tables, counted, beside what the paper prints."""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from analysis import imagenet, tables
from analysis.paper_rule import paper_rule
from analysis.tables import CocoRow, ImageNetRow
from odconv_det.complexity import trace
from odconv_det.plugin.building import build_on_meta
from odconv_det.plugin.complexity import count_detector

__all__ = [
    "CountedCoco",
    "CountedImageNet",
    "as_json",
    "count_coco",
    "count_imagenet",
    "markdown",
    "rendered",
]

ROOT = Path(__file__).resolve().parents[2]
IMAGE = (224, 224)
COCO_IMAGE = (800, 1280)
# What the paper's backbone figures of MobileNetV2 are for; see the notes.
COCO_RULE_IMAGE = (1600, 2560)


class CountedImageNet(NamedTuple):
    """A network with its classifier, at 224x224."""

    parameters: int
    multiply_adds: int
    paper_rule: int | None
    activations: int


class CountedCoco(NamedTuple):
    """A detector at 800x1280 with 1000 boxes and 100 masks.

    ``paper_parameters`` counts the ImageNet classifier as well, which the authors'
    backbones still hold, ``paper_backbone`` (the brackets) only by how much it is
    larger than a static one.
    """

    parameters: int
    backbone: int
    paper_parameters: int
    paper_backbone: int
    multiply_adds: int
    backbone_multiply_adds: int
    backbone_paper_rule: int | None
    activations: int


def count_imagenet(row: ImageNetRow) -> CountedImageNet:
    """Count a row; the ablations share networks with the other tables."""
    return _count_imagenet(row.network, row.system)


@cache
def _count_imagenet(network: str, system: str) -> CountedImageNet:
    row = next(r for r in tables.IMAGENET if (r.network, r.system) == (network, system))
    built = imagenet.build(row.backbone, row.classifier)
    calls = trace(built, (1, 3, *IMAGE))
    as_in_paper = calls
    if network in ("ResNet-50", "ResNet-101"):
        # The stride in the first 1x1; the same for networks of two 3x3.
        caffe = imagenet.build({**row.backbone, "style": "caffe"}, row.classifier)
        as_in_paper = trace(caffe, (1, 3, *IMAGE))
    return CountedImageNet(
        sum(parameter.numel() for parameter in built.parameters()),
        sum(call.multiply_adds for call in calls),
        paper_rule(as_in_paper),
        sum(call.activations for call in calls),
    )


@cache
def _classifiers(network: str, system: str) -> tuple[int, int]:
    """Parameters of the classifier that the paper's figure has, and of a static one."""
    row = next(r for r in tables.COCO if r.system == system and r.network == network)
    width = 2048 if network == "ResNet-50" else 1280
    sizes = (
        sum(p.numel() for p in imagenet.build_classifier(width, kind).parameters())
        for kind in (row.classifier, imagenet.STATIC)
    )
    return tuple(sizes)


@cache
def _backbone_rule(network: str, system: str) -> int | None:
    if network == "ResNet-50":
        return None  # its static figure is not explained
    row = next(r for r in tables.IMAGENET if (r.network, r.system) == (network, system))
    backbone = imagenet.build(row.backbone).backbone
    return paper_rule(trace(backbone, (1, 3, *COCO_RULE_IMAGE)))


def count_coco(row: CocoRow) -> CountedCoco:
    """Count a row by its config."""
    return _count_coco(row.config, row.network, row.system)


@cache
def _count_coco(config: str, network: str, system: str) -> CountedCoco:
    detector = build_on_meta(Config.fromfile(ROOT / config))
    counted = count_detector(detector, COCO_IMAGE)
    total, backbone = counted.total, counted.part("backbone")
    classifier, static = _classifiers(network, system)
    return CountedCoco(
        total.parameters,
        backbone.parameters,
        total.parameters + classifier,
        backbone.parameters + classifier - static,
        total.multiply_adds,
        backbone.multiply_adds,
        _backbone_rule(network, system),
        total.activations,
    )


def as_json() -> dict[str, Any]:
    """All rows, with the paper's figures as printed and ours as integers."""
    return {
        name: [{**row._asdict(), "counted": count_row(row)._asdict()} for row in rows]
        for name, rows, count_row in (
            ("imagenet", tables.IMAGENET, count_imagenet),
            ("coco", tables.COCO, count_coco),
        )
    }


def markdown() -> str:
    """All tables under their headings."""
    return "\n\n".join(f"## {name}\n\n{table()}" for name, table in _TABLES.items())


def rendered(text: str) -> str:
    """A page with all tables written anew.

    A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.

    Raises:
        ValueError: if the page has no such place, or one for a table that there is not.
    """

    def block(match: re.Match[str]) -> str:
        name = match[1]
        if name not in _TABLES:
            raise ValueError(f"there is no table {name!r}, only {', '.join(_TABLES)}")
        return f"<!-- table: {name} -->\n{_TABLES[name]()}\n<!-- end -->"

    text, places = re.subn(
        r"<!-- table: (.+?) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL
    )
    if not places:
        raise ValueError("no place for a table, like <!-- table: COCO --> <!-- end -->")
    return text


class _Notes:
    """Marks of the notes of one table: letters, in the order of their use."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def mark(self, *keys: str) -> str:
        for key in keys:
            if key not in self.used:
                self.used.append(key)
        letters = ", ".join(chr(ord("a") + self.used.index(key)) for key in keys)
        return f" ({letters})" if letters else ""

    def lines(self) -> Iterator[str]:
        for key in self.used:
            yield f"- {self.mark(key).strip()} {tables.NOTES[key]}"


def _imagenet_table(name: str) -> str:
    notes = _Notes()
    rows = [row for row in tables.IMAGENET if row.table == name]
    lines = [_imagenet_line(row, notes) for row in rows]
    unit = "M" if rows[0].unit == 10**6 else "G"
    columns = (
        "network",
        "system",
        "params, paper (M)",
        "params",
        "difference (M)",
        f"MAdds, paper ({unit})",
        "paper rule",
        "MAdds",
        "activations (M)",
        "top-1 / top-5 (%), reported by the authors",
        "backbone",
        "classifier",
    )
    return _table(columns, lines, notes)


def _imagenet_line(row: ImageNetRow, notes: _Notes) -> list[str]:
    counted = count_imagenet(row)
    params_differ = not _agrees(row.params, counted.parameters, 10**6)
    madds_differ = counted.paper_rule is None or not _agrees(
        row.madds, counted.paper_rule, row.unit
    )
    keys = (row.note,) if row.note else ()
    return [
        row.network,
        row.system,
        row.params + (notes.mark(*keys) if params_differ else ""),
        f"{counted.parameters:,}",
        _difference(row.params, counted.parameters, 10**6),
        row.madds + (notes.mark(*keys) if madds_differ else ""),
        _rounded(counted.paper_rule, row.unit, row.madds),
        _rounded(counted.multiply_adds, row.unit, row.madds),
        _millions(counted.activations),
        f"{row.top1} / {row.top5}",
        f"`{_call(row.backbone)}`",
        "static" if row.classifier is imagenet.STATIC else f"`{_call(row.classifier)}`",
    ]


def _coco_table() -> str:
    notes = _Notes()
    lines = [_coco_line(row, notes) for row in tables.COCO]
    columns = (
        "detector",
        "backbone",
        "system",
        "params, paper (M)",
        "counted as in the paper (M)",
        "difference (M)",
        "params",
        "of the backbone",
        "MAdds, paper (G)",
        "paper rule, backbone at {}x{}".format(*COCO_RULE_IMAGE),
        "MAdds (G)",
        "of the backbone (G)",
        "AP / AP50 / AP75 / APs / APm / APl, reported by the authors",
        "config",
    )
    return _table(columns, lines, notes)


def _coco_line(row: CocoRow, notes: _Notes) -> list[str]:
    counted = count_coco(row)
    whole, own = row.params
    agrees = _agrees(whole, counted.paper_parameters, 10**6) and _agrees(
        own, counted.paper_backbone, 10**6
    )
    params_notes = (*(() if agrees else ("sums",)), *row.params_notes)
    return [
        row.detector,
        row.network,
        row.system,
        f"{whole} ({own})" + notes.mark(*params_notes),
        f"{_millions(counted.paper_parameters)} ({_millions(counted.paper_backbone)})",
        _difference(whole, counted.paper_parameters, 10**6),
        f"{counted.parameters:,}",
        f"{counted.backbone:,}",
        "{} ({})".format(*row.madds) + notes.mark(*row.madds_notes),
        _rounded(counted.backbone_paper_rule, 10**9, row.madds[1]),
        f"{counted.multiply_adds / 10**9:.2f}",
        f"{counted.backbone_multiply_adds / 10**9:.2f}",
        " / ".join(row.reported),
        f"[{Path(row.config).stem}](../{row.config})",
    ]


def _table(columns: Iterable[str], lines: Iterable[list[str]], notes: _Notes) -> str:
    columns = tuple(columns)
    text = [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]
    if notes.used:
        text += ["", *notes.lines()]
    return "\n".join(text)


def _millions(value: int) -> str:
    return f"{value / 10**6:.3f}"


def _digits(printed: str) -> int:
    return len(printed.partition(".")[2])


def _rounded(value: int | None, unit: int, like: str) -> str:
    """In this unit, with as many digits as the paper prints."""
    return "none" if value is None else f"{value / unit:.{_digits(like)}f}"


def _agrees(printed: str, value: int, unit: int) -> bool:
    return _rounded(value, unit, printed) == printed


def _difference(printed: str, value: int, unit: int) -> str:
    """Ours less the paper's; "=" if they are equal at the digits printed."""
    if _agrees(printed, value, unit):
        return "="
    return f"{value / unit - float(printed):+.3f}"


def _call(config: Any) -> str:
    """A config as one writes it."""
    if isinstance(config, dict):
        return f"dict({', '.join(f'{k}={_call(v)}' for k, v in config.items())})"
    return repr(config)


_TABLES: dict[str, Callable[[], str]] = {
    **{
        name: lambda name=name: _imagenet_table(name)
        for name in dict.fromkeys(row.table for row in tables.IMAGENET)
    },
    "COCO": _coco_table,
}
