"""Start the tools as processes without waiting for their imports each time.

:class:`Forge` keeps one process that has imported what the tools import. It forks a
child for each command; the child is an ordinary process: it has its own working folder,
environment and exit status, can be killed, and ends as the interpreter does.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Child", "Forge"]

ROOT = Path(__file__).parents[1]


@dataclass
class Child:
    """A started command; its output is in a file, whole once it has ended."""

    forge: Forge
    pid: int
    log: Path

    def kill(self) -> None:
        """End it as the kernel does when memory is out (kill -9)."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Exit status; negative is the signal that ended it."""
        return self.forge.ask({"wait": self.pid})

    @property
    def output(self) -> str:
        """What it has printed so far, both streams."""
        return self.log.read_text(errors="replace")


class Forge:
    """The process that forks; use it as a context.

    Args:
        folder: where logs of the commands go.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._count = 0
        environment = dict(
            os.environ,
            PYTHONPATH=str(ROOT),
            CUDA_VISIBLE_DEVICES="",
            OMP_NUM_THREADS="1",
            ODCONV_HOME=str(folder / "no weights here"),
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forge"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Forge:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def ask(self, request: Mapping[str, object]) -> int:
        """Send one request to the process and return its answer."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(
        self, folder: Path, script: Path, *words: object, **environment: str
    ) -> Child:
        """Start ``script`` with these words in ``folder``."""
        self._count += 1
        log = self._folder / f"{self._count}.log"
        log.touch()  # may be read before the child has begun
        request = dict(
            command=[str(script), *map(str, words)],
            folder=str(folder),
            environment=environment,
            log=str(log),
        )
        return Child(self, self.ask(request), log)

    def run(
        self, folder: Path, script: Path, *words: object, **environment: str
    ) -> tuple[int, str]:
        """Exit status and output of a command."""
        child = self.start(folder, script, *words, **environment)
        return child.wait(), child.output


def serve() -> None:
    """Answer requests until the pipe ends; returns in each child as well."""
    # A killed child must not leave the answer of another in the pipe half read.
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if not answer:
                become(request)
                return
        print(json.dumps(answer), file=answers, flush=True)


def become(request: Mapping[str, object]) -> None:
    """Turn this process into the requested command."""
    os.setsid()
    # Tests started in the background ignore Ctrl-C, and so would their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.argv = request["command"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


def preload() -> None:
    """Import what the tools import; what they print stays out of the answers."""
    with open(os.devnull, "w") as null:
        sys.stdout, stdout = null, sys.stdout
        import mmdet.apis
        import mmdet.engine
        import mmdet.evaluation  # noqa: F401
        import torch

        import odconv_det.plugin  # noqa: F401

        # At its end a child would look through all this, and copy it by that.
        gc.collect()
        gc.freeze()
        # Drawing on the meta device imports a second's worth of modules. Not frozen:
        # Triton then complains of leaks at the end.
        torch.empty(1, device="meta").normal_()
        sys.stdout = stdout


if __name__ == "__main__":
    preload()
    serve()
