"""The checkpoints that a run has saved, by their names in its folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmengine.config import Config

from odconv_det.checkpoints import CheckpointError, is_torch_file

__all__ = ["folder_of", "latest", "names_of", "newest_whole", "pattern", "pointer"]


def pointer(work_dir: str | os.PathLike[str]) -> str | None:
    """What ``last_checkpoint`` says; ``None`` where there is no such file."""
    file = Path(work_dir, "last_checkpoint")
    return file.read_text() if file.is_file() else None


def folder_of(
    work_dir: str | os.PathLike[str], out_dir: str | os.PathLike[str] | None
) -> Path:
    """Where a ``CheckpointHook`` saves: an ``out_dir`` has a folder for each run."""
    work_dir = Path(work_dir)
    return Path(out_dir, work_dir.name) if out_dir else work_dir


def names_of(cfg: Config) -> tuple[Path, str]:
    """The folder of a run's checkpoints, and their ``filename_tmpl``."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    names = "epoch_{}.pth" if hook.get("by_epoch", True) else "iter_{}.pth"
    folder = folder_of(cfg.work_dir, hook.get("out_dir"))
    return folder, hook.get("filename_tmpl") or names


def pattern(names: str) -> str:
    """A regular expression of these names; its last group is the epoch or iteration."""
    return r"(\d+)".join(map(re.escape, re.split(r"\{.*?\}", names)))


def newest_whole(folder: Path, names: str) -> Path | None:
    """The furthest checkpoint that was written to its end; ``None`` where none was.

    By the number in its name: times change when a folder is copied.
    """
    return next(filter(_is_whole, _saved(folder, names)), None)


def latest(folder: Path, names: str) -> Path | None:
    """What to go on from where no ``last_checkpoint`` says it; ``None``: nothing yet.

    Raises:
        CheckpointError: if there are checkpoints, which a run from the start would
            overwrite, and none of them is whole.
    """
    found = newest_whole(folder, names)
    if found is None and (torn := _saved(folder, names)):
        raise CheckpointError(
            f"{folder} has {torn[0].name}, which is not whole, and no checkpoint "
            "to go on from: remove it, or name another work dir"
        )
    return found


def _saved(folder: Path, names: str) -> list[Path]:
    """The checkpoints of these names, the furthest first."""
    steps = {
        path: int(found[found.lastindex])
        for path in folder.glob("*")
        if (found := re.fullmatch(pattern(names), path.name)) and found.lastindex
    }
    return sorted(steps, key=steps.__getitem__, reverse=True)


def _is_whole(path: Path) -> bool:
    return path.is_file() and is_torch_file(path)
