"""`pytest --torch-only` leaves out the files that import MMDetection, no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MMDETECTION

ROOT = Path(__file__).parents[1]
FILES = ["tests/core/test_relu6.py", "tests/test_docs.py"]  # torch; MMDetection
BLOCK = """
import functools, sys
from importlib.machinery import PathFinder
def find_others(find_spec, name, *rest, **options):
    missing = name.partition(".")[0] in sys.argv[1].split()
    return None if missing else find_spec(name, *rest, **options)
PathFinder.find_spec = functools.partial(find_others, PathFinder.find_spec)
import pytest
sys.exit(pytest.main(["--collect-only", "-q", *sys.argv[2:]]))
"""


def collect(missing, *arguments, path=()):
    """Exit status and output of a collection where some packages are not installed."""
    result = subprocess.run(
        [sys.executable, "-c", BLOCK, " ".join(missing), *arguments, *FILES],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def test_files_that_import_mmdetection_are_left_out():
    status, output = collect(MMDETECTION, "--torch-only")
    assert status == pytest.ExitCode.OK
    assert "tests/core/test_relu6.py::" in output
    assert "tests/test_docs.py" not in output


def test_anything_else_that_is_missing_is_an_error():
    status, output = collect([*MMDETECTION, "odconv_det"], "--torch-only")
    assert status == pytest.ExitCode.INTERRUPTED
    assert "No module named 'odconv_det" in output


def test_where_mmdetection_is_installed_the_option_is_refused(tmp_path):
    (tmp_path / "mmdet.py").touch()
    status, output = collect(["mmcv"], "--torch-only", path=[tmp_path])
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "MMDetection is installed, test it all" in output
