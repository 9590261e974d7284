"""The decisions of `make setup`; the set-up itself is run by running these tests."""

import pytest

from tools import setup_env
from tools.setup_env import SetupError, check_interpreter, choose_build


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


def test_an_nvcc_without_headers_is_no_toolkit(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert setup_env.find_toolkit() != str(tmp_path)
    (tmp_path / "include").mkdir()
    (tmp_path / "include/cusparse.h").touch()
    assert setup_env.find_toolkit() == str(tmp_path)


def test_packages_that_an_interrupted_pip_left_are_removed(monkeypatch, tmp_path):
    packages = tmp_path / "lib/python3.11/site-packages"
    for name in ("whole-1.0", "torn-1.0"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
        (packages / f"{name}.dist-info/METADATA").touch()
    (packages / "whole-1.0.dist-info/RECORD").touch()
    (packages / "~orn").mkdir()
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    setup_env.remove_torn_packages()
    assert [one.name for one in packages.iterdir()] == ["whole-1.0.dist-info"]
