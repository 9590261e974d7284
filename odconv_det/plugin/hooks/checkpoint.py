"""Checkpoints that a crash at any moment leaves whole."""

from __future__ import annotations

import inspect
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from odconv_det.checkpoints import CheckpointError
from odconv_det.plugin.file_backend import WHOLE_FILES
from odconv_det.plugin.loading import load_checkpoint
from odconv_det.plugin.saved import (
    folder_of,
    latest,
    newest_whole,
    pattern,
    pointer,
)

__all__ = ["SafeCheckpointHook"]

# What an earlier process was writing when it was killed.
_LEFT_OVER = re.compile(r"\..+\.\d+\.part")

# Files that a checkpoint makes superfluous, as it says itself: killed before it could
# remove them, a run does so when it is resumed.
_SUPERFLUOUS = "superfluous_ckpts"


@HOOKS.register_module(force=True)
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook`` with another order: write, then name, then prune.

    MMEngine removes the oldest checkpoint, and the best one, before it writes the next,
    and writes in place: a full disk or a kill in that moment costs what was there. Here
    a checkpoint is written to a temporary file in the same folder, flushed to the disk
    and renamed; then ``last_checkpoint`` names it; then older files go. The disk needs
    room for one checkpoint (and one best one) more than ``max_keep_ckpts``.

    Arguments, names of files and ``last_checkpoint`` are those of ``CheckpointHook``;
    ``out_dir`` must be a folder of the local disk.

    Raises:
        ValueError: for ``backend_args``, ``file_client_args``, an ``out_dir`` that is
            an address, or numbers that are none.
        CheckpointError: if the disk takes no more.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("interval", "max_keep_ckpts"):
            if not isinstance(value := getattr(self, name), int):
                raise ValueError(f"{name} must be an int, got {value!r}")
        if self.interval == 0:
            raise ValueError("interval must not be 0: -1 saves the last one alone")
        if self.backend_args or self.file_client_args:
            raise ValueError(
                f"{type(self).__name__} writes to the local disk: leave backend_args "
                "and file_client_args out, or use type='CheckpointHook'"
            )
        if "://" in str(self.out_dir):
            raise ValueError(
                f"{type(self).__name__} writes to the local disk, not to "
                f"{self.out_dir}: use type='CheckpointHook' for it"
            )
        self.backend_args = dict(backend=WHOLE_FILES)
        self._earlier_bests: dict[str, str] = {}
        self._writer: str | None = None

    def before_run(self, runner: Runner) -> None:
        """Resume from the newest file where ``last_checkpoint`` is lost.

        MMEngine would start from the beginning, and overwrite what was saved.
        """
        auto = runner._resume and runner._load_from is None
        if auto and pointer(runner.work_dir) is None:
            folder = folder_of(runner.work_dir, self.out_dir)
            found = latest(folder, self.filename_tmpl)
            runner._load_from = None if found is None else str(found)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remember which process wrote the checkpoint that is resumed."""
        if runner._resume:
            self._writer = checkpoint["meta"].get("experiment_name")

    def before_train(self, runner: Runner) -> None:
        """Find the folder, and finish what a killed run had begun."""
        info = runner.message_hub.runtime_info
        kept = info.pop("keep_ckpt_ids", [])
        super().before_train(runner)  # which would remove what a file tells it to
        if is_main_process():
            for folder in {self.out_dir, runner.work_dir}:
                for path in Path(folder).glob(".*.part"):
                    if _LEFT_OVER.fullmatch(path.name):
                        path.unlink(missing_ok=True)
        if not runner._resume:
            self._warn_of_an_earlier_run(runner)
        # A run that goes on from another folder has no say about the files of this one.
        here = runner.iter > 0 and self._is_here(runner._load_from)
        if here:
            self._take_over(runner, [step for step in kept if isinstance(step, int)])
        self._find_bests(info, here)
        if here and self.save_best is not None:
            self._adopt_bests(runner)
        self._set_bests({key: info.get(key) for key in self._bests()})

    def _warn_of_an_earlier_run(self, runner: Runner) -> None:
        named = pointer(runner.work_dir)
        if named is None:
            named = newest_whole(Path(self.out_dir), self.filename_tmpl)
        if named is not None:
            print_log(
                f"{runner.work_dir} has checkpoints of an earlier run, the latest of "
                f"them {Path(named).name}: this run does not go on from it, and "
                "overwrites those that it has a name for; until it has saved one "
                "itself, --resume goes on with the earlier run",
                "current",
                logging.WARNING,
            )

    def _is_here(self, resumed: str | None) -> bool:
        """Whether the resumed checkpoint, by default the latest one, is of this run."""
        if resumed is None:
            return True
        return Path(resumed).parent.resolve() == Path(self.out_dir).resolve()

    def _take_over(self, runner: Runner, kept: list[int]) -> None:
        info = runner.message_hub.runtime_info
        if "last_ckpt" in info:
            self.last_ckpt = str(self._here(str(info["last_ckpt"])))
        superfluous = list(info.get(_SUPERFLUOUS, ()))
        if self.max_keep_ckpts > 0:
            superfluous += map(self.filename_tmpl.format, kept[: -self.max_keep_ckpts])
            self.keep_ckpt_ids.extend(kept)
            ids = list(self.keep_ckpt_ids)
            runner.message_hub.update_info("keep_ckpt_ids", ids)
        if is_main_process():
            self._remove(superfluous)

    def _find_bests(self, info: dict[str, Any], here: bool) -> None:
        """The best checkpoints, wherever the run's folder was before.

        One that was removed is forgotten, so that the next one is the best. Those of a
        run that goes on from another folder stay there; the next ones have to compare.
        """
        for key in [key for key in info if key.startswith("best_ckpt")]:
            path = self._here(str(info.pop(key)))
            if not here:
                continue
            if path.is_file():
                info[key] = str(path)
            else:
                print_log(f"the best checkpoint {path} is not there", "current")
                info.pop(_score_of(key), None)

    def _adopt_bests(self, runner: Runner) -> None:
        """Finish what a killed run wrote last: a best checkpoint that no other knows.

        The process that wrote it wrote the resumed one too; the evaluation behind it is
        not repeated.
        """
        info = runner.message_hub.runtime_info
        step = runner.epoch if self.by_epoch else runner.iter
        found = Path(self.out_dir).glob(f"best_*_{self.filename_tmpl.format(step)}")
        named = [path for key, path in info.items() if key.startswith("best_ckpt")]
        self._earlier_bests = {key: info[key] for key in self._bests() if key in info}
        adopted = False
        for path in sorted({str(path) for path in found} - set(named)):
            try:
                content = load_checkpoint(path)
            except CheckpointError as error:  # another hook may have written it
                print_log(f"not adopted: {error}", "current")
                continue
            if content["meta"].get("experiment_name") == self._writer:
                known = content["message_hub"]["runtime_info"]
                for key in _told_of(path, known):
                    runner.message_hub.update_info(key, known[key])
                adopted = True
        if adopted:
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, step, meta)
        self._earlier_bests = {}

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Leave out the functions of schedulers, which no reader of data admits.

        ``OneCycleLR`` keeps one. A resumed scheduler has its own from the config.
        """
        schedulers = checkpoint.get("param_schedulers", [])
        if isinstance(schedulers, dict):  # of several optimizers
            schedulers = [one for several in schedulers.values() for one in several]
        for state in schedulers:
            for key in [key for key in state if inspect.isroutine(state[key])]:
                del state[key]

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, Any]
    ) -> None:
        hub = runner.message_hub
        superfluous = self._beaten(runner)
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                superfluous.append(os.path.join(self.out_dir, oldest))
            self.keep_ckpt_ids.append(step)
            hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = os.path.join(self.out_dir, name)
        hub.update_info("last_ckpt", self.last_ckpt)
        hub.update_info(_SUPERFLUOUS, superfluous)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            pointer = os.path.join(runner.work_dir, "last_checkpoint")
            self.file_backend.put_text(self.last_ckpt, pointer)
            self._remove(superfluous)

    def after_train(self, runner: Runner) -> None:
        """Publish the last and the best checkpoints; by some metric there may be none.

        So it is where a run went on in another folder and found nothing better.
        """
        paths = getattr(self, "best_ckpt_path_dict", {})
        for name in [name for name, path in paths.items() if path is None]:
            del paths[name]
        super().after_train(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        # MMEngine removes the best one that it knows before it writes the better one.
        self._earlier_bests = {k: path for k, path in self._bests().items() if path}
        self._set_bests(dict.fromkeys(self._bests()))
        super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            self._remove(self._beaten(runner))
        now = self._bests()
        self._set_bests({key: now[key] or self._earlier_bests.get(key) for key in now})
        self._earlier_bests = {}

    def _beaten(self, runner: Runner) -> list[str]:
        """The best checkpoints that there are better ones than by now."""
        info = runner.message_hub.runtime_info
        return [old for key, old in self._earlier_bests.items() if info[key] != old]

    def _bests(self) -> dict[str, str | None]:
        """Key of the message hub -> path of the best checkpoint by that metric."""
        if self.save_best is None:
            return {}
        if len(self.key_indicators) == 1:
            return {"best_ckpt": self.best_ckpt_path}
        paths = self.best_ckpt_path_dict
        return {f"best_ckpt_{name}": paths.get(name) for name in self.key_indicators}

    def _set_bests(self, paths: dict[str, str | None]) -> None:
        if "best_ckpt" in paths:
            self.best_ckpt_path = paths["best_ckpt"]
        elif paths:
            self.best_ckpt_path_dict = {
                key.removeprefix("best_ckpt_"): path for key, path in paths.items()
            }

    def _remove(self, paths: Iterable[str]) -> None:
        for path in map(self._here, map(str, paths)):
            if not self._is_checkpoint(path.name):
                continue
            if path.is_dir():  # as DeepSpeed writes them
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _is_checkpoint(self, name: str) -> bool:
        """Whether this hook may have given a file this name.

        A resumed checkpoint may come from anywhere, and has no say beyond these.
        """
        own = pattern(self.filename_tmpl)
        return re.fullmatch(f"(best_.+_)?{own}", name) is not None

    def _here(self, path: str) -> Path:
        """The file of this name in the folder of checkpoints."""
        return Path(self.out_dir, Path(path).name)


def _told_of(path: str, info: Mapping[str, Any]) -> list[str]:
    """The keys under which a best checkpoint tells of itself: its path, its score.

    Of the best ones by other metrics it knows what was so before it.
    """
    name = Path(path).name
    keys = [key for key in info if key.startswith("best_ckpt")]
    own = [key for key in keys if Path(str(info[key])).name == name]
    return own + [_score_of(key) for key in own if _score_of(key) in info]


def _score_of(key: str) -> str:
    """Where the score of a best checkpoint is, whose path is under ``key``."""
    return key.replace("best_ckpt", "best_score", 1)
