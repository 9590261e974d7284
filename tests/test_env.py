"""`python -m odconv_det.env`: what it says about each kind of environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from odconv_det import env
from odconv_det.env import Runtime, diagnose, probe

BASE = {"torch": "2.13.0+cpu", "numpy": "2.2.6", "setuptools": "80.9.0"}
ONEDL = {
    **BASE,
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmdetection": "3.5.1",
    "safetensors": "0.8.0",
}
OPENMMLAB = {
    **BASE,
    "torch": "2.6.0",
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "mmdet": "3.3.0",
    "safetensors": "0.8.0",
}
HEALTHY = Runtime()

ROOT = Path(__file__).parents[1]


def without(installed, *names):
    return {name: version for name, version in installed.items() if name not in names}


def only_problem(installed, runtime=HEALTHY, **options):
    problems = [one for one in diagnose(installed, runtime, **options) if not one.note]
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize("installed", [ONEDL, OPENMMLAB], ids=["onedl", "openmmlab"])
def test_either_stack_is_healthy(installed):
    assert diagnose(installed, HEALTHY) == []


def test_torch_alone_is_no_problem_and_the_note_says_how_to_get_detectors():
    runtime = Runtime(errors={"mmengine": "No module named 'mmengine'"})
    (note,) = diagnose(BASE, runtime)
    assert note.note
    assert "layers work" in note.what
    assert ".[onedl]" in note.fix


@pytest.mark.parametrize("version", ["2.5.1", "1.13.1+cu117"])
def test_old_torch_is_named(version):
    assert version in only_problem({**ONEDL, "torch": version}).what


def test_torch_2_10_is_newer_than_2_6():
    assert diagnose({**ONEDL, "torch": "2.10.0"}, HEALTHY) == []


def test_missing_torch_is_the_first_problem():
    problems = diagnose(without(BASE, "torch"), HEALTHY)
    assert problems[0].what == "torch is not installed."


def test_missing_numpy_is_named():
    assert "numpy" in only_problem(without(ONEDL, "numpy")).what


def test_old_python_is_named():
    assert "3.9" in only_problem(ONEDL, python=(3, 9, 18)).what


@pytest.mark.parametrize(
    ("missing", "name"),
    [
        ("onedl-mmengine", "mmengine"),
        ("onedl-mmcv", "mmcv"),
        ("onedl-mmdetection", "mmdet"),
    ],
)
def test_a_missing_part_of_the_stack_is_named_with_its_install_line(missing, name):
    problem = only_problem(without(ONEDL, missing))
    assert problem.what == f"{name} is not installed."
    assert f"{missing}=={ONEDL[missing]}" in problem.fix


@pytest.mark.parametrize(
    ("added", "pair"),
    [
        ("mmcv", "onedl-mmcv and mmcv"),
        ("mmcv-lite", "onedl-mmcv and mmcv-lite"),
        ("mmengine", "onedl-mmengine and mmengine"),
        ("mmdet", "onedl-mmdetection and mmdet"),
    ],
)
def test_distributions_installed_over_each_other_are_named(added, pair):
    problem = only_problem({**ONEDL, added: "2.1.0"})
    assert problem.what.startswith(pair)
    assert "pip uninstall" in problem.fix


def test_a_part_of_the_other_stack_is_named():
    mixed = {**without(ONEDL, "onedl-mmdetection"), "mmdet": "3.3.0"}
    problem = only_problem(mixed)
    assert problem.what.startswith("mmdet does not belong")
    assert "onedl-mmdetection==3.5.1" in problem.fix


@pytest.mark.parametrize(
    ("installed", "name", "version"),
    [
        (OPENMMLAB, "mmcv", "2.2.0"),  # mmdet 3.3.0 refuses it
        (OPENMMLAB, "mmengine", "0.10.4"),
        (ONEDL, "onedl-mmdetection", "3.4.0"),
    ],
)
def test_an_unsupported_version_is_named(installed, name, version):
    assert f"{name} {version}" in only_problem({**installed, name: version}).what


def test_a_later_release_of_the_same_series_is_fine():
    assert diagnose({**ONEDL, "onedl-mmengine": "0.10.13"}, HEALTHY) == []


def test_mmcv_without_operators_is_told_to_be_built():
    error = "No module named 'mmcv._ext'"
    runtime = Runtime(errors={"mmcv._ext": error, "mmdet": error})
    problem = only_problem(ONEDL, runtime)
    assert "no operators" in problem.what
    assert "--no-cache-dir --no-build-isolation onedl-mmcv==2.3.6" in problem.fix


def test_operators_of_another_torch_are_told_to_be_rebuilt():
    error = "/x/_ext.so: undefined symbol: _ZN2at4_ops5zeros4callE"
    runtime = Runtime(errors={"mmcv._ext": error, "mmdet": error})
    problem = only_problem(OPENMMLAB, runtime)
    assert "another torch" in problem.what
    assert "mmcv==2.1.0" in problem.fix


def test_operators_for_the_cpu_beside_a_gpu_are_a_problem():
    runtime = Runtime(torch_cuda="13.0", gpu=True, operators_cuda=False)
    problem = only_problem(ONEDL, runtime)
    assert "CUDA 13.0 toolkit" in problem.fix
    assert (
        diagnose(ONEDL, Runtime(torch_cuda="13.0", gpu=True, operators_cuda=True)) == []
    )


class TestADriverWithoutAGpu:
    """torch sees none: most often, the driver is too old for its CUDA."""

    @pytest.mark.parametrize("installed", [ONEDL, BASE], ids=["stack", "torch alone"])
    def test_is_a_problem_and_a_torch_for_an_older_cuda_is_named(self, installed):
        installed = {**installed, "torch": "2.13.0+cu130"}
        problem = only_problem(installed, Runtime(torch_cuda="13.0", driver=True))
        assert "torch for CUDA 13.0 sees no GPU" in problem.what
        assert (
            "pip install torch==2.13.0+cu126 --index-url "
            "https://download.pytorch.org/whl/cu126"
        ) in problem.fix
        assert "export CUDA_VISIBLE_DEVICES=" in problem.fix

    def test_with_the_oldest_torch_that_is_offered_only_the_driver_is_left(self):
        problem = only_problem(ONEDL, Runtime(torch_cuda="12.6", driver=True))
        assert problem.fix.startswith("Update the driver; or leave the GPU out")

    @pytest.mark.parametrize(
        "runtime",
        [
            Runtime(torch_cuda="13.0", driver=False),
            Runtime(torch_cuda=None, driver=True),
            Runtime(torch_cuda="13.0", driver=True, gpu=True, operators_cuda=True),
        ],
        ids=["no driver", "torch for the CPU", "a GPU"],
    )
    def test_else_there_is_no_problem(self, runtime):
        assert diagnose(ONEDL, runtime) == []

    @pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
    def test_who_hides_the_gpu_is_left_alone(self, hidden, tmp_path, monkeypatch):
        monkeypatch.setattr(env, "DRIVER", tmp_path)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not env.has_driver()
        for shown in ("0", "0,1", "GPU-8932f937", "MIG-1a2b"):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
            assert env.has_driver()
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert env.has_driver()
        monkeypatch.setattr(env, "DRIVER", tmp_path / "none")
        assert not env.has_driver()

    def test_a_torch_is_named_only_if_there_is_one_for_that_cuda(self):
        assert "torch==2.9.0+cu130 " in env.torch_for("13.0", "2.9.0+cu126")
        assert env.torch_for("13.0", "2.8.0+cu126") is None
        assert env.torch_for("11.8", "2.13.0+cu130") is None

    @pytest.mark.parametrize("driver", [False, True])
    def test_is_found_with_the_rest(self, driver, monkeypatch):
        monkeypatch.setattr(env, "has_driver", lambda: driver)
        assert probe(["mmcv._ext"]).driver == driver


def test_opencv_without_its_system_library_names_the_package():
    error = "libGL.so.1: cannot open shared object file"
    runtime = Runtime(errors={"cv2": error, "mmcv": error})
    assert "apt install libgl1" in only_problem(ONEDL, runtime).fix


@pytest.mark.parametrize("name", ["pycocotools.mask", "mmdet"])
def test_a_missing_dependency_is_named_with_its_install_line(name):
    package = name.partition(".")[0]
    runtime = Runtime(errors={name: f"No module named '{package}'"})
    assert "pip install" in only_problem(ONEDL, runtime).fix


@pytest.mark.parametrize("version", ["82.0.1", None])
def test_openmmlab_needs_pkg_resources(version):
    installed = without(OPENMMLAB, "setuptools")
    if version:
        installed["setuptools"] = version
    assert "setuptools<82" in only_problem(installed).fix
    assert diagnose({**ONEDL, "setuptools": "82.0.1"}, HEALTHY) == []


def test_missing_safetensors_is_a_note():
    (note,) = diagnose(without(ONEDL, "safetensors"), HEALTHY)
    assert note.note


def test_probe_reports_failed_imports_and_survives_a_crash(tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text("import os; os._exit(3)")
    (tmp_path / "fails.py").write_text("raise ImportError('first line\\nsecond')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stub = tmp_path / "torch.py"  # spares the test two seconds of importing
    stub.write_text("class cuda:\n  is_available = lambda: False\n")
    runtime = probe(["fails", "mmcv._ext", "dies"])
    assert list(runtime.errors) == ["dies"]
    assert "exit status 3" in runtime.errors["dies"]


@pytest.mark.usefixtures("mmdetection")
def test_the_command_speaks_where_the_operators_are_broken(tmp_path):
    """Also `import odconv_det` must get through for the command to start at all."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mmcv._ext':\n"
        "            raise ImportError('_ext.so: undefined symbol: _ZN2at')\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    result = subprocess.run(
        [sys.executable, "-m", "odconv_det.env"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "mmcv._ext    does not load" in result.stdout
    assert "problem: mmcv's operators do not load" in result.stdout
    assert "mmcv==2." in result.stdout
    assert "Traceback" not in result.stderr


def run_with_stub(tmp_path, package, code):
    """The command where importing ``package`` runs ``code``."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "odconv_det.env"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_speaks_where_torch_is_broken(tmp_path):
    result = run_with_stub(tmp_path, "torch", "raise ImportError('libtorch.so: gone')")
    assert result.returncode == 1
    assert "problem: torch cannot be imported: libtorch.so: gone" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("mmdetection")
def test_the_command_survives_a_crash_of_mmcv(tmp_path):
    result = run_with_stub(tmp_path, "mmcv", "import os; os.abort()")
    assert result.returncode == 1
    assert "the interpreter died" in result.stdout


@pytest.mark.usefixtures("mmdetection")
def test_the_command_finds_no_problem_here(capsys):
    assert env.main() == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line]
    assert names[:7] == [
        "python",
        "torch",
        "numpy",
        "mmengine",
        "mmcv",
        "mmcv._ext",
        "mmdet",
    ]
    assert lines[-1] == "No problem found."
