"""Groups of real processes, started as people start them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.group import ROOT, free_port

SECONDS = 240


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of a command on a machine without a GPU."""
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    return os.environ | dict(PATH=path, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def members(tmp_path_factory, environment):
    """What each of so many processes has found, see member.py."""

    def run(processes: int) -> list[dict]:
        folder = tmp_path_factory.mktemp(f"{processes}_members")
        script = Path(__file__).with_name("member.py")
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "launch.py", str(processes)]
            + [script, folder],
            env=environment | dict(PORT=free_port()),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        files = [folder / f"{rank}.pt" for rank in range(processes)]
        return [torch.load(file) for file in files]

    return run
