"""What .ci/run does with the time it has; `make` is a stand-in."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"

MAKE = """#!/usr/bin/env bash
stack=${2:-default}
echo "lines of $stack"
%s
echo "7 passed on $stack"
"""


@pytest.fixture
def ci(tmp_path):
    """Runs a copy of the script, as if begun some minutes and half of one ago.

    The half keeps the whole minutes the same for a machine that is half a minute slow.
    """
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / ".ci" / "run")

    def run(minutes=0, make=""):
        stub = tmp_path / "make"
        stub.write_text(MAKE % make)
        stub.chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        result = subprocess.run(
            [script],
            env={**os.environ, "PATH": path, "SECONDS": str(minutes * 60 + 30)},
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout.splitlines()

    return run


def test_the_second_stack_follows_and_the_first_one_closes(ci):
    status, lines = ci(minutes=30)
    assert status == 0
    assert lines == [
        "lines of default",
        "7 passed on default",
        ".ci/run: now the second stack, openmmlab",
        "lines of STACK=openmmlab",
        "7 passed on STACK=openmmlab",
        ".ci/run: the second stack, openmmlab, ran: 7 passed on STACK=openmmlab",
        "7 passed on default",
    ]


def test_without_time_only_the_default_stack_runs(ci):
    status, lines = ci(minutes=36)
    assert status == 0
    assert "lines of STACK=openmmlab" not in lines
    assert lines[-2].endswith("did not run: 36 of 90 minutes are over")
    assert lines[-1] == "7 passed on default"


@pytest.mark.parametrize("stack", ["default", "STACK=openmmlab"])
def test_a_failure_on_either_stack_is_one(ci, stack):
    status, lines = ci(make=f"[ $stack = {stack} ] && echo 1 failed && exit 2")
    assert status == 2
    reason = "did not run: the default stack failed" if stack == "default" else "ran: 1"
    assert reason in lines[-2]
    assert lines[-1] == ("1 failed" if stack == "default" else "7 passed on default")


def test_a_second_stack_that_is_too_slow_is_no_failure(ci, tmp_path):
    timeout = tmp_path / "timeout"  # the real one with less time
    timeout.write_text(f'#!/bin/sh\nshift 2\nexec {shutil.which("timeout")} 0.2 "$@"\n')
    timeout.chmod(0o755)
    status, lines = ci(minutes=20, make="[ $stack = default ] || sleep 60")
    assert status == 0
    assert lines[-2].endswith("ran out of time, which is no failure: it had 64 minutes")
    assert lines[-1] == "7 passed on default"
