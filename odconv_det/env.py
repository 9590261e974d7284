"""What is installed, whether it fits together, and what to do where it does not.

`python -m odconv_det.env` prints a table and names each problem with its fix; the exit
status is 1 if there is a problem.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "Problem",
    "Runtime",
    "diagnose",
    "has_driver",
    "installed_distributions",
    "judge_driver",
    "main",
    "probe",
    "torch_for",
]

# Tested: `make test STACK=torch`. Before 2.6 reading with weights_only could run code
# all the same (CVE-2025-32434).
LOWEST_TORCH = "2.6.0"

# torch's builds for each CUDA, with the first torch that has them.
TORCH_BUILDS = {"12": ("cu126", (2, 6)), "13": ("cu130", (2, 9))}

# There where the driver has a GPU. A container that was given none sees the host's
# driver under /proc all the same.
DRIVER = Path("/dev/nvidiactl")

INSTALL = "CFLAGS=-g0 pip install --no-build-isolation '.[onedl]'"
REBUILD = (
    "CFLAGS=-g0 pip install --force-reinstall --no-deps --no-cache-dir "
    "--no-build-isolation {}"
)


@dataclass(frozen=True)
class Stack:
    """One of the two sets of distributions that provide mmengine, mmcv and mmdet.

    `versions` maps a distribution to the version this package is written for; a later
    release of the same series (0.10.13 for 0.10.12) fits too.
    """

    extra: str
    versions: Mapping[str, str]


STACKS = (
    Stack(
        "onedl",
        {
            "onedl-mmengine": "0.10.12",
            "onedl-mmcv": "2.3.6",
            "onedl-mmdetection": "3.5.1",
        },
    ),
    Stack("openmmlab", {"mmengine": "0.10.7", "mmcv": "2.1.0", "mmdet": "3.3.0"}),
)

# Every distribution that installs files under an import name.
PROVIDERS = {
    "mmengine": ("onedl-mmengine", "mmengine", "mmengine-lite"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite", "mmcv-full"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
}
OTHERS = ("torch", "numpy", "setuptools", "safetensors", "gdown")

# In the order of dependence, so that the first failure is the cause of those after it.
MODULES = (
    "torch",
    "numpy",
    "cv2",
    "pycocotools.mask",
    "mmengine",
    "mmcv",
    "mmcv._ext",
    "mmdet",
)


@dataclass(frozen=True)
class Problem:
    """What is wrong and what to do; a note is worth knowing but stops nothing."""

    what: str
    fix: str
    note: bool = False


@dataclass(frozen=True)
class Runtime:
    """What importing the installed modules showed.

    Attributes:
        errors: import name -> error message, for each module that failed.
        torch_cuda: the CUDA version torch was built for; None for a CPU build.
        gpu: whether torch sees a GPU.
        operators_cuda: whether mmcv's operators were built for CUDA.
        driver: whether a GPU should be seen: :func:`has_driver`.
    """

    errors: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str | None = None
    gpu: bool = False
    operators_cuda: bool = False
    driver: bool = False


def diagnose(
    installed: Mapping[str, str],
    runtime: Runtime,
    python: Sequence[int] = sys.version_info,
) -> list[Problem]:
    """Judge an environment.

    Args:
        installed: distribution name -> version, of those named in this file.
        runtime: what importing them showed.
        python: the interpreter's version.
    """
    problems = []
    if tuple(python[:2]) < (3, 10):
        found = ".".join(map(str, python[:2]))
        problems.append(
            Problem(f"Python {found} is too old.", "Use Python 3.10 or later.")
        )
    problems += _judge_base(installed, runtime)
    overlaps = _judge_overlaps(installed)
    problems += overlaps
    stack = None
    # Names that two distributions share tell nothing about the rest.
    if not overlaps:
        stack, found = _judge_stack(installed)
        problems += found
    if stack:
        problems += _judge_imports(stack, runtime)
        problems += _judge_gpu(stack, runtime)
        problems += _judge_extras(stack, installed)
    return problems


def _judge_base(installed: Mapping[str, str], runtime: Runtime) -> list[Problem]:
    version = installed.get("torch")
    if version is None:
        return [Problem("torch is not installed.", "pip install torch")]
    if "torch" in runtime.errors:
        what = f"torch cannot be imported: {runtime.errors['torch']}"
        return [Problem(what, f"pip install --force-reinstall torch=={version}")]
    problems = []
    if _numbers(version) < _numbers(LOWEST_TORCH):
        what = f"torch {version} is too old."
        fix = (
            f"pip install 'torch>={LOWEST_TORCH}'; mmcv, if it is installed, must be "
            "built again"
        )
        problems.append(Problem(what, fix))
    if "numpy" not in installed:
        problems.append(Problem("numpy is not installed.", "pip install numpy"))
    return problems + judge_driver(version, runtime)


def judge_driver(version: str, runtime: Runtime, pip: str = "pip") -> list[Problem]:
    """Whether torch sees no GPU although there is one.

    Args:
        version: torch's.
        runtime: what importing it showed.
        pip: the command of the environment.
    """
    cuda = runtime.torch_cuda
    if cuda is None or runtime.gpu or not runtime.driver:
        return []
    fix = "Update the driver"
    if _numbers(cuda) >= (13,):
        fix += f"; or take a torch for an older CUDA: {torch_for('12', version, pip)}"
        fix += " (mmcv, if it is installed, must be built again)"
    return [
        Problem(
            f"There is an NVIDIA driver, but torch for CUDA {cuda} sees no GPU: the "
            "driver may be too old for it.",
            f"{fix}; or leave the GPU out: export CUDA_VISIBLE_DEVICES=",
        )
    ]


def torch_for(cuda: str, version: str, pip: str = "pip") -> str | None:
    """The command that installs torch for a CUDA of this major version, if any.

    Args:
        cuda: its version, such as ``'12.4'``.
        version: torch's.
        pip: the command of the environment.
    """
    build, lowest = TORCH_BUILDS.get(cuda.partition(".")[0], (None, ()))
    if build is None or _numbers(version) < lowest:
        return None
    # Without the build's name, pip is content with the torch that is there.
    wanted = f"torch=={version.partition('+')[0]}+{build}"
    return (
        f"{pip} install {wanted} --index-url https://download.pytorch.org/whl/{build}"
    )


def _judge_overlaps(installed: Mapping[str, str]) -> list[Problem]:
    problems = []
    for name, providers in PROVIDERS.items():
        present = [one for one in providers if one in installed]
        if len(present) > 1:
            problems.append(
                Problem(
                    f"{' and '.join(present)} are installed over each other: both "
                    f"provide {name}.",
                    f"pip uninstall -y {' '.join(present)}, then install one stack: "
                    f"{INSTALL}",
                )
            )
    return problems


def _judge_stack(
    installed: Mapping[str, str],
) -> tuple[Stack | None, list[Problem]]:
    """The stack that is installed, if it is whole, and what is wrong with it."""
    present = {
        name: one
        for name, providers in PROVIDERS.items()
        for one in providers
        if one in installed
    }
    if not present:
        what = "MMDetection is not installed: the layers work, the detectors do not."
        return None, [Problem(what, INSTALL, note=True)]
    counts = [
        sum(one in stack.versions for one in present.values()) for stack in STACKS
    ]
    stack = STACKS[counts.index(max(counts))]
    problems = []
    for name, wanted in zip(PROVIDERS, stack.versions.items(), strict=True):
        distribution, version = wanted
        pin = f"{distribution}=={version}"
        one = present.get(name)
        if one is None:
            problems.append(Problem(f"{name} is not installed.", _install(pin)))
        elif one != distribution:
            problems.append(
                Problem(
                    f"{one} does not belong to the rest, which is of the "
                    f"[{stack.extra}] stack.",
                    f"pip uninstall -y {one}; {_install(pin)}",
                )
            )
        elif not _fits(installed[one], version):
            problems.append(
                Problem(f"{one} {installed[one]} is not supported.", _install(pin))
            )
    return (None if problems else stack), problems


def _judge_imports(stack: Stack, runtime: Runtime) -> list[Problem]:
    """The first module that cannot be imported; those after it fail for its sake."""
    failed = [name for name in MODULES if name in runtime.errors and name != "torch"]
    if not failed or "torch" in runtime.errors:
        return []
    name, error = failed[0], runtime.errors[failed[0]]
    mmcv = list(stack.versions)[1]
    rebuild = REBUILD.format(f"{mmcv}=={stack.versions[mmcv]}")
    if name == "mmcv._ext" and "No module named" in error:
        what = "mmcv has no operators (mmcv._ext): it was installed without torch."
        return [Problem(what, rebuild)]
    if name == "mmcv._ext":
        what = f"mmcv's operators do not load: {error}"
        if any(sign in error for sign in ("undefined symbol", ".so", "died")):
            what += ". They were built for another torch."
        return [Problem(what, rebuild)]
    if name == "cv2" and "No module named" not in error:
        fix = (
            "apt install libgl1 libglib2.0-0, or: pip install --force-reinstall "
            "--no-deps opencv-python-headless"
        )
        return [Problem(f"OpenCV cannot be imported: {error}", fix)]
    if name == "cv2":
        return [Problem("OpenCV is not installed.", _install("opencv-python-headless"))]
    package = name.partition(".")[0]
    distribution = dict(zip(PROVIDERS, stack.versions, strict=True)).get(
        package, package
    )
    if f"No module named '{package}'" in error:
        return [Problem(f"{package} is not installed.", _install(distribution))]
    fix = f"pip install --force-reinstall --no-deps {_no_isolation(distribution)}"
    return [Problem(f"{name} cannot be imported: {error}", fix)]


def _judge_gpu(stack: Stack, runtime: Runtime) -> list[Problem]:
    if not runtime.gpu or runtime.operators_cuda or runtime.errors:
        return []
    mmcv = list(stack.versions)[1]
    rebuild = REBUILD.format(f"{mmcv}=={stack.versions[mmcv]}")
    return [
        Problem(
            "torch sees a GPU, but mmcv's operators were built for the CPU only.",
            f"Install the CUDA {runtime.torch_cuda} toolkit, then: FORCE_CUDA=1 "
            f"{rebuild}; or hide the GPU: export CUDA_VISIBLE_DEVICES=",
        )
    ]


def _judge_extras(stack: Stack, installed: Mapping[str, str]) -> list[Problem]:
    problems = []
    if stack.extra == "openmmlab":
        setuptools = installed.get("setuptools")
        if setuptools is None or _numbers(setuptools) >= (82,):
            found = f"setuptools {setuptools} has" if setuptools else "There is"
            what = f"{found} no pkg_resources, which mmengine needs to read configs."
            problems.append(Problem(what, "pip install 'setuptools<82'"))
    if "safetensors" not in installed:
        what = "safetensors is not installed: .safetensors files cannot be used."
        problems.append(Problem(what, "pip install safetensors", note=True))
    return problems


def _install(requirement: str) -> str:
    return f"pip install {_no_isolation(requirement)}"


def _no_isolation(requirement: str) -> str:
    built_here = requirement.startswith(("onedl-mm", "mmcv"))
    return f"--no-build-isolation {requirement}" if built_here else requirement


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 13, 0) for '2.13.0+cpu'."""
    numbers = []
    for part in version.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _fits(version: str, wanted: str) -> bool:
    found, needed = _numbers(version), _numbers(wanted)
    return found[:2] == needed[:2] and found >= needed


def installed_distributions() -> dict[str, str]:
    """Name and version of each installed distribution that this module knows."""
    known = [*OTHERS, *(one for providers in PROVIDERS.values() for one in providers)]
    installed = {}
    for name in known:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


# Runs in a process of its own: a binary built for another torch may crash on import.
_PROBE = """
import importlib, json, sys
facts = {"errors": {}}
for name in sys.argv[1:]:
    print(json.dumps({"importing": name}), flush=True)
    try:
        importlib.import_module(name)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        facts["errors"][name] = lines[0]
if "torch" not in facts["errors"]:
    import torch
    facts["torch_cuda"] = torch.version.cuda
    facts["gpu"] = torch.cuda.is_available()
if "mmcv._ext" not in facts["errors"]:
    import mmcv._ext
    built_for = mmcv._ext.get_compiling_cuda_version()
    facts["operators_cuda"] = "not available" not in built_for
print(json.dumps(facts), flush=True)
"""


def probe(modules: Sequence[str] = MODULES) -> Runtime:
    """Import `modules` in a fresh process and tell what happened."""
    command = [sys.executable, "-c", _PROBE, *modules]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    # Some packages print while they are imported.
    reports = [line for line in result.stdout.splitlines() if line.startswith("{")]
    last = json.loads(reports[-1]) if reports else {"importing": "python"}
    if "importing" in last:
        crash = f"the interpreter died (exit status {result.returncode})"
        return Runtime(errors={last["importing"]: crash})
    return Runtime(**last, driver=has_driver())


def has_driver() -> bool:
    """Whether there is an NVIDIA driver, and nobody hides its GPUs from CUDA."""
    # Slurm writes NoDevFiles for a job without a GPU.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return DRIVER.exists() and re.match(r"\s*(\d|GPU-|MIG-)", visible) is not None


def _table(installed: Mapping[str, str], runtime: Runtime) -> list[tuple[str, ...]]:
    """Rows of name, version, remark."""
    none = "not installed"
    cuda = runtime.torch_cuda
    build = f"CUDA {cuda}, {'a' if runtime.gpu else 'no'} GPU" if cuda else "CPU build"
    rows = [
        ("python", ".".join(map(str, sys.version_info[:3])), sys.prefix),
        ("torch", installed.get("torch", none), build if "torch" in installed else ""),
        ("numpy", installed.get("numpy", none), ""),
    ]
    for name, providers in PROVIDERS.items():
        present = [one for one in providers if one in installed]
        versions = " and ".join(installed[one] for one in present)
        rows.append((name, versions or none, " and ".join(present)))
        if name == "mmcv" and present:
            works = not any(one in runtime.errors for one in ("mmcv", "mmcv._ext"))
            kind = f"built for {'CUDA' if runtime.operators_cuda else 'the CPU'}"
            state = ("works", kind) if works else ("does not load", "")
            rows.append(("mmcv._ext", *state))
    rows.append(("safetensors", installed.get("safetensors", none), ""))
    rows.append(("gdown", installed.get("gdown", none), "downloads odconv:// weights"))
    return rows


def main() -> int:
    """Print the table and the problems; returns the exit status."""
    installed = installed_distributions()
    runtime = probe()
    for name, version, remark in _table(installed, runtime):
        print(f"{name:<12} {version:<14} {remark}".rstrip())
    problems = diagnose(installed, runtime)
    for problem in problems:
        kind = "note" if problem.note else "problem"
        print(f"\n{kind}: {problem.what}\n  fix: {problem.fix}")
    if all(problem.note for problem in problems):
        print("\nNo problem found.")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
