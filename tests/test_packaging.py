"""What the packaging files promise."""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import odconv_det
from odconv_det.env import LOWEST_TORCH, STACKS
from tools.setup_env import Environment, constraints_of

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ALL_STACKS = [*(stack.extra for stack in STACKS), "torch"]
ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r'([a-z0-9-]+)==([\w.]+)(?:; python_version < "3\.(\d+)")?')


# The environment of `make setup` that these tests run in, if it is one.
HERE = Path(sys.prefix).resolve()
STACK = {ROOT / Environment(stack).name: stack for stack in ALL_STACKS}.get(HERE)


def pins(stack="onedl"):
    """Package -> version, of the constraints that hold for this Python."""
    lines = constraints_of(stack).splitlines()
    matches = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert matches
    assert all(matches), "every line is a pin"
    return {
        match[1]: match[2]
        for match in matches
        if match[3] is None or sys.version_info < (3, int(match[3]))
    }


def test_setup_py_is_a_shim():
    code = (ROOT / "setup.py").read_text().split("\n")
    assert [line for line in code if line] == [
        "from setuptools import setup",
        "setup()",
    ]


def test_the_package_depends_on_torch_and_numpy_only():
    names = [re.match(r"[\w-]+", one)[0] for one in PROJECT["dependencies"]]
    assert names == ["torch", "numpy"]


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", odconv_det.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text()
    # What is not released yet stands above it.
    assert re.search(r"^## (\d\S+)", changelog, re.M)[1] == odconv_det.__version__


@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.extra)
def test_each_extra_is_the_stack_that_the_environment_check_knows(stack):
    extra = PROJECT["optional-dependencies"][stack.extra]
    for name, version in stack.versions.items():
        assert f"{name}=={version}" in extra


def test_extras_never_mix_the_stacks_nor_need_torchvision():
    requirements = PROJECT["optional-dependencies"].items()
    names = {
        extra: {re.match(r"[\w-]+", one)[0] for one in wanted}
        for extra, wanted in requirements
    }
    onedl, openmmlab = (set(stack.versions) for stack in STACKS)
    assert len(names) == 4
    for extra, wanted in names.items():
        assert not (wanted & onedl and wanted & openmmlab), extra
        assert "torchvision" not in wanted


def test_the_constraints_pin_both_stacks_and_leave_torchvision_out():
    pinned = pins()
    for stack in STACKS:
        assert stack.versions.items() <= pinned.items()
    assert pinned["torch"] == "2.13.0"
    assert int(pinned["setuptools"].split(".")[0]) < 82
    assert "torchvision" not in pinned


def test_the_lowest_torch_is_one_everywhere():
    lowest = ".".join(LOWEST_TORCH.split(".")[:2])
    assert f"torch>={lowest}" in PROJECT["dependencies"]
    assert pins("torch")["torch"] == LOWEST_TORCH


# What pip itself, this clone, and torch (its CUDA build names exact versions) bring.
UNPINNED = re.compile(r"pip|odconv-det|triton|(nvidia|cuda)-.+")


@pytest.mark.skipif(STACK is None, reason="not an environment of `make setup`")
def test_the_environment_holds_pinned_versions_and_nothing_else():
    installed = {
        re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one.version.split("+")[0]
        # Not all of sys.path: setuptools puts its vendored packages there.
        for one in importlib.metadata.distributions(
            path=[sysconfig.get_path("purelib")]
        )
    }
    found = {
        name: version
        for name, version in installed.items()
        if not UNPINNED.fullmatch(name)
    }
    pinned = pins(STACK)
    assert found.items() <= pinned.items()
    if STACK == "onedl":  # the others need some of them
        openmmlab = STACKS[1].versions.keys()
        assert pinned.keys() - found.keys() == openmmlab


def fresh_python(code, *blocked):
    """Run code in a new process in which the blocked packages are not installed."""
    blocker = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find_spec = PathFinder.find_spec\n"
        "def find_others(name, *rest):\n"
        f"    blocked = name.partition('.')[0] in {blocked!r}\n"
        "    return None if blocked else find_spec(name, *rest)\n"
        "PathFinder.find_spec = find_others\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", blocker + code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_torch_and_numpy_are_enough_for_the_layers():
    result = fresh_python(
        "import torch, odconv_det, odconv_det.checkpoints, odconv_det.env\n"
        "import odconv_det.complexity\n"
        "layer = odconv_det.ODConv2d(8, 8, 3, padding=1, kernel_num=4)\n"
        "assert layer(torch.zeros(2, 8, 5, 5)).shape == (2, 8, 5, 5)\n"
        "odconv_det.set_temperature(layer, 2.0)\n"
        "print(sorted(n for n in sys.modules if n.startswith('mm')))\n",
        *("mmengine", "mmcv", "mmdet", "safetensors", "gdown", "cv2", "pycocotools"),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in ("[]", "['mmap']")


def test_committed_files_name_no_registry_host():
    files = ["constraints.txt", "pyproject.toml", "Makefile", "tools/setup_env.py"]
    for name in files:
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text), name
