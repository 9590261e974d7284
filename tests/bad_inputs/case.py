"""What a bad input is, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odconv_det.env import Runtime

__all__ = [
    "COMPARE",
    "CONVERT",
    "COUNT",
    "INFLATE",
    "LAUNCH",
    "TEST",
    "TRAIN",
    "Case",
    "Environment",
    "Layer",
    "Tool",
    "options",
]

TRAIN, TEST = "tools/train.py", "tools/test.py"
CONVERT, INFLATE = "tools/convert_official.py", "tools/inflate.py"
COUNT, COMPARE = "tools/analysis/complexity.py", "tools/compare.py"
LAUNCH = "tools/launch.py"


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        name: of the test.
        wrong: what is wrong, for the page.
        message: what is said.
    """

    name: str
    wrong: str
    message: str


@dataclass(frozen=True)
class Tool(Case):
    """A command line in a folder with ``tiny.py`` and its data.

    Attributes:
        command: script and words.
        config: appended to ``tiny.py``.
        spoil: changes the folder.
        leaves_work_dir: whether the run gets as far as its log.
        environment: variables; ``BUSY_PORT`` in a value is a port in use.
    """

    command: tuple[str, ...] = (TRAIN, "tiny.py")
    config: str = ""
    spoil: Callable[[Path], None] = field(default=lambda folder: None)
    leaves_work_dir: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer(Case):
    """Arguments of a layer, in Python."""

    kind: str = "ODConv2d"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment(Case):
    """What is installed, and what importing it shows."""

    installed: Mapping[str, str] = field(default_factory=dict)
    runtime: Runtime = field(default_factory=Runtime)


def options(*words: str) -> tuple[str, ...]:
    """A training of ``tiny.py`` with ``--cfg-options``."""
    return (TRAIN, "tiny.py", "--cfg-options", *words)
