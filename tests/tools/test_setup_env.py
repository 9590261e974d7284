"""The decisions of `make setup`; the set-up itself is run by running these tests."""

import re
import subprocess
from pathlib import Path

import pytest

from odconv_det import env
from odconv_det.env import LOWEST_TORCH, STACKS
from tools import setup_env
from tools.setup_env import Environment, SetupError, check_interpreter, choose_build

ROOT = Path(__file__).parents[2]
KNOWN = [*(stack.extra for stack in STACKS), "torch"]


def test_a_stack_is_what_the_environment_check_knows():
    assert len(STACKS) == 2
    for stack in STACKS:
        assert setup_env.distributions(stack.extra) == tuple(stack.versions)
    assert setup_env.distributions("torch") == ()


@pytest.mark.parametrize("name", ["mmdet", ""])
def test_an_unknown_stack_gets_one_line_with_those_known(name, capsys):
    assert setup_env.main(name) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: there is no stack '{name}'")
    assert line.endswith("onedl, openmmlab, torch")


def test_each_stack_has_a_folder_of_its_own_that_git_and_lint_leave_alone():
    names = [Environment(stack).name for stack in KNOWN]
    assert names == [".venv", ".venv-openmmlab", ".venv-torch"]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/.venv", "/.venv-*"} <= set(ignored)
    assert '".venv-*"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("stack", KNOWN)
def test_make_sets_up_and_uses_the_same_folder(stack):
    command = ["make", "--dry-run", "test", f"STACK={stack}"]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f'tools/setup_env.py "{stack}"' in result.stdout
    pythons = re.findall(r"^(\S+)/bin/python -m", result.stdout, re.MULTILINE)
    assert set(pythons) == {Environment(stack).name}
    # What an incomplete environment would hide is left out where asked for only.
    assert ("--torch-only" in result.stdout) == (stack == "torch")


def test_torch_alone_has_the_versions_of_the_stacks_but_the_lowest_torch():
    stacks, alone = (
        setup_env.constraints_of(one).splitlines() for one in ("openmmlab", "torch")
    )
    assert setup_env.constraints_of("onedl").splitlines() == stacks
    changed = [pair for pair in zip(stacks, alone, strict=True) if len(set(pair)) > 1]
    assert changed == [
        ("sympy==1.14.0", "sympy==1.13.1"),
        ("torch==2.13.0", f"torch=={LOWEST_TORCH}"),
    ]


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 13, 0), (2, 7, 18)])
def test_an_unsupported_python_is_refused_by_its_name(version):
    with pytest.raises(SetupError, match=rf"Python {version[0]}\.{version[1]} is not"):
        check_interpreter(version)


def test_a_python_without_headers_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SetupError, match="apt install python3-dev"):
        check_interpreter((3, 11, 0))


def test_a_machine_without_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -pthread")
    with pytest.raises(SetupError, match=r"\(no-such-compiler\).*build-essential"):
        setup_env.check_compiler()


@pytest.mark.parametrize("toolkit", [None, "/cuda"])
def test_a_cpu_torch_gets_cpu_operators_whatever_the_toolkit(toolkit):
    build = choose_build("", False, toolkit, toolkit and "13.0")
    assert build.device == "the CPU"
    assert build.environment == {"FORCE_CUDA": "0"}


def test_a_toolkit_gives_cuda_operators(monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    build = choose_build("13.0", True, "/cuda", "13.1")
    assert build.device == "CUDA 13.1"
    assert build.environment == {"FORCE_CUDA": "1", "CUDA_HOME": "/cuda"}


def test_a_toolkit_without_visible_gpu_names_the_architectures(monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    build = choose_build("13.0", False, "/cuda", "13.0")
    assert "+PTX" in build.environment["TORCH_CUDA_ARCH_LIST"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    build = choose_build("13.0", False, "/cuda", "13.0")
    assert "TORCH_CUDA_ARCH_LIST" not in build.environment


@pytest.mark.parametrize("toolkit", [(None, None), ("/cuda", "12.4")])
def test_without_a_fitting_toolkit_a_gpu_is_refused_and_no_gpu_gets_the_cpu(toolkit):
    with pytest.raises(SetupError, match=r"CUDA 13\.0 toolkit is needed"):
        choose_build("13.0", True, *toolkit)
    assert choose_build("13.0", False, *toolkit).device == "the CPU"


class TestInstallMmcv:
    @pytest.fixture
    def installs(self, monkeypatch):
        """With a torch, a toolkit and a driver as told; the steps of pip."""
        installed = []

        def prepare(torch, release="", driver=False):
            def output_of(command, *words):
                if words == ("-c", setup_env.TORCH):
                    return torch
                return f"Cuda compilation tools, release {release}, V{release}.99"

            names = {**vars(env), "has_driver": lambda: driver}
            monkeypatch.setattr(setup_env, "known", lambda: names)
            monkeypatch.setattr(setup_env, "output_of", output_of)
            toolkit = "/cuda" if release else None
            monkeypatch.setattr(setup_env, "find_toolkit", lambda: toolkit)
            monkeypatch.setattr(
                setup_env, "pip", lambda _, step, *__, **___: installed.append(step)
            )
            setup_env.install_mmcv(Environment(), "onedl-mmcv")
            return installed

        return prepare

    def test_a_driver_whose_gpu_torch_does_not_see_is_said_at_once(self, installs):
        with pytest.raises(SetupError, match=r"sees no GPU.*\.venv/bin/pip.*cu126"):
            installs("0 2.13.0+cu130 13.0", driver=True)

    def test_a_toolkit_for_another_cuda_gets_its_torch_named(self, installs):
        command = r"`\.venv/bin/pip install torch==2\.13\.0\+cu126 --index-url \S+`"
        with pytest.raises(SetupError, match=f"found: 12.4 in /cuda.*{command}"):
            installs("1 2.13.0+cu130 13.0", "12.4", driver=True)
        with pytest.raises(SetupError, match="found: 11.8 in /cuda") as error:
            installs("1 2.13.0+cu130 13.0", "11.8", driver=True)
        assert "pip" not in str(error.value)

    @pytest.mark.parametrize(
        "torch, release, driver, device",
        [
            ("0 2.13.0+cpu", "", True, "the CPU"),
            ("0 2.13.0+cu130 13.0", "12.4", False, "the CPU"),
            ("0 2.13.0+cu130 13.0", "13.0", False, "CUDA 13.0"),
            ("1 2.13.0+cu126 12.6", "12.4", True, "CUDA 12.4"),
        ],
    )
    def test_else_the_operators_are_built(
        self, torch, release, driver, device, installs
    ):
        (step,) = installs(torch, release, driver)
        assert f"built for {device} " in step
        assert re.search(r"; cores of this machine: \d+\)$", step)


def test_an_nvcc_without_headers_is_no_toolkit(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert setup_env.find_toolkit() != str(tmp_path)
    (tmp_path / "include").mkdir()
    (tmp_path / "include/cusparse.h").touch()
    assert setup_env.find_toolkit() == str(tmp_path)


def test_packages_that_an_interrupted_pip_left_are_removed(tmp_path):
    packages = tmp_path / "lib/python3.11/site-packages"
    for name in ("whole-1.0", "torn-1.0"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
        (packages / f"{name}.dist-info/METADATA").touch()
    (packages / "whole-1.0.dist-info/RECORD").touch()
    (packages / "~orn").mkdir()
    setup_env.remove_torn_packages(tmp_path)
    assert [one.name for one in packages.iterdir()] == ["whole-1.0.dist-info"]
