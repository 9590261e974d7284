"""Make the environment of one stack: what `make setup` runs.

Usage: setup_env.py [STACK]. The stacks are those of odconv_det/env.py, each in a folder
of its own, and "torch": the lowest supported torch, without MMDetection.

Safe to repeat and to interrupt: a finished set-up is recognised in seconds, an
unfinished one goes on. Versions come from constraints.txt. Written for the standard
library of Python 3.6 on, so that an unsupported one gets a clear line.
"""

import collections
import hashlib
import os
import pathlib
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUPPORTED = ((3, 10), (3, 12))
DEFAULT = "onedl"
TORCH_ONLY = "torch"
SYMPY_OF_LOWEST_TORCH = "1.13.1"  # torch 2.6.0 admits no other

# What a CUDA build is made for where no GPU is visible to ask (a login node, say).
CUDA_ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0+PTX"

# All that decides what an environment should hold.
INPUTS = (
    "constraints.txt",
    "pyproject.toml",
    "odconv_det/env.py",
    "tools/setup_env.py",
)

# Exits non-zero unless mmcv's operators load; prints what they were built for.
OPERATORS = "import mmcv.ops as ops; print(ops.get_compiling_cuda_version())"

# Whether torch sees a GPU, its version, and the CUDA version it is built for, if any.
TORCH = (
    "import torch; print(int(torch.cuda.is_available()), torch.__version__,"
    " torch.version.cuda or '')"
)

Build = collections.namedtuple("Build", ["device", "environment"])


class SetupError(Exception):
    """One line: what is wrong, and what to do."""


class Environment:
    """Where one stack is installed, and what is said of it.

    Attributes:
        name: its folder, as a user types it.
        pip: the same of its pip.
        make: the command that sets it up.
    """

    def __init__(self, stack=DEFAULT):
        default = stack == DEFAULT
        self.stack = stack
        self.name = ".venv" if default else ".venv-" + stack
        self.make = "make setup" if default else "make setup STACK=" + stack
        self.folder = ROOT / self.name
        self.python = self.folder / "bin" / "python"
        self.pip = self.name + "/bin/pip"
        self.log = self.folder / "setup.log"
        self.stamp = self.folder / "setup.stamp"
        self.constraints = self.folder / "constraints.txt"


def main(stack=DEFAULT):
    """Set one stack up; returns the exit status."""
    env = Environment(stack)
    try:
        if is_up_to_date(env):
            say(f"{env.name} is up to date")
            return 0
        check_interpreter(sys.version_info)
        parts = distributions(stack)
        check_compiler()
        make_venv(env)
        install(env, parts)
        if run(env.python, "-m", "odconv_det.env").returncode:
            raise SetupError("the environment is not complete, see above")
        env.stamp.write_text(fingerprint(env))
        say(f"done: {env.name} is ready")
        return 0
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        line = f"\nsetup: interrupted; `{env.make}` goes on from here"
        print(line, file=sys.stderr)
        return 130


def say(text):
    """Print a line at once, also into a pipe."""
    print("setup: " + text, flush=True)


def run(*command, **options):
    """Run a command in the project's folder, with text streams."""
    command = [str(word) for word in command]
    return subprocess.run(command, cwd=str(ROOT), text=True, **options)


def output_of(*command):
    """What a command prints; None where it fails or does not exist."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        result = run(*command, **options)
    except OSError:
        return None
    return None if result.returncode else result.stdout.strip()


# --- what belongs to a stack ----------------------------------------------------------


def known():
    """The names in odconv_det/env.py."""
    # Run, not imported: the package itself needs torch. Python 3.10 is sure by now.
    return runpy.run_path(str(ROOT / "odconv_det" / "env.py"))


def distributions(stack):
    """The distributions with mmengine, mmcv and mmdet; none for torch alone.

    Raises SetupError for an unknown stack.
    """
    parts = {one.extra: tuple(one.versions) for one in known()["STACKS"]}
    parts[TORCH_ONLY] = ()
    if stack not in parts:
        raise SetupError(
            f"there is no stack '{stack}': STACK is one of {', '.join(parts)}"
        )
    return parts[stack]


def constraints_of(stack):
    """Text of constraints.txt, for torch alone with the lowest supported torch."""
    text = (ROOT / "constraints.txt").read_text()
    if stack != TORCH_ONLY:
        return text
    lowest = known()["LOWEST_TORCH"]
    for name, version in (("torch", lowest), ("sympy", SYMPY_OF_LOWEST_TORCH)):
        pin = f"{name}=={version}"
        text = re.sub(f"^{name}==.*$", pin, text, flags=re.MULTILINE)
    return text


# --- is there anything to do? ---------------------------------------------------------


def fingerprint(env):
    """Hash of all that decides what the folder should hold, and of what it holds."""
    digest = hashlib.sha256(str(ROOT).encode())  # a moved folder breaks the scripts
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    for info in sorted(env.folder.glob("lib/python3*/site-packages/*.dist-info")):
        digest.update(info.name.encode())
    digest.update(str(find_toolkit()).encode())
    return digest.hexdigest()


def is_up_to_date(env):
    """Whether the last set-up still stands: same inputs, and the environment works."""
    if not env.stamp.exists() or env.stamp.read_text() != fingerprint(env):
        return False
    return output_of(env.python, "-m", "odconv_det.env") is not None


# --- the machine ----------------------------------------------------------------------


def check_interpreter(version):
    """Raise SetupError unless this Python can make the environment."""
    found = "{}.{}".format(*version[:2])
    low, high = ("{}.{}".format(*bound) for bound in SUPPORTED)
    if not SUPPORTED[0] <= tuple(version[:2]) <= SUPPORTED[1]:
        raise SetupError(
            f"Python {found} is not supported, {low} to {high} are: name one, such as"
            f" `make setup PYTHON=python{high}`"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "this Python cannot make environments: apt install python3-venv"
            f" (or python{found}-venv)"
        ) from None
    if not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists():
        raise SetupError(
            "Python.h is missing, mmcv's operators cannot be built:"
            f" apt install python3-dev (or python{found}-dev)"
        )


def check_compiler():
    """Raise SetupError where there is no C++ compiler."""
    words = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    compiler = shlex.split(words)[0]
    if not shutil.which(compiler):
        raise SetupError(
            f"no C++ compiler ({compiler}), mmcv's operators cannot be built:"
            " apt install build-essential"
        )


def check_driver(env, version, torch_cuda, gpu):
    """Raise SetupError where there is a GPU's driver, but torch sees no GPU.

    The operators would be built for the CPU, and nobody would be told.
    """
    names = known()
    runtime = names["Runtime"](
        torch_cuda=torch_cuda or None, gpu=gpu, driver=names["has_driver"]()
    )
    for problem in names["judge_driver"](version, runtime, env.pip):
        raise SetupError(f"{problem.what} {problem.fix}")


def find_toolkit():
    """Folder of the CUDA toolkit, or None."""
    nvcc = shutil.which("nvcc")
    folders = [
        os.environ.get("CUDA_HOME"),
        os.environ.get("CUDA_PATH"),
        nvcc and pathlib.Path(nvcc).resolve().parent.parent,
        "/usr/local/cuda",
    ]
    for folder in filter(None, folders):
        # A bare compiler builds nothing: the headers of torch include cusparse.h.
        files = ("bin/nvcc", "include/cusparse.h")
        if all(pathlib.Path(folder, name).exists() for name in files):
            return str(folder)
    return None


def choose_build(torch_cuda, gpu, toolkit, toolkit_version, other_torch=None):
    """Decide what mmcv's operators are built for.

    Args:
        torch_cuda: CUDA version of torch such as "13.0"; empty for a CPU build.
        gpu: whether torch sees a GPU.
        toolkit: folder of the CUDA toolkit, or None.
        toolkit_version: its version, or None.
        other_torch: the command that installs a torch for this toolkit, or None.

    Raises SetupError where torch sees a GPU that the operators could not use.
    """
    if not torch_cuda:
        # torch.cuda is never available here: mmcv's own choice is the CPU too.
        return Build("the CPU", {"FORCE_CUDA": "0"})
    major = torch_cuda.split(".")[0]
    if toolkit and toolkit_version and toolkit_version.split(".")[0] == major:
        environment = {"FORCE_CUDA": "1", "CUDA_HOME": toolkit}
        if not gpu and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
            environment["TORCH_CUDA_ARCH_LIST"] = CUDA_ARCHITECTURES
        return Build("CUDA " + toolkit_version, environment)
    if gpu:
        found = f"{toolkit_version} in {toolkit}" if toolkit else "none"
        ways = ["install it and set CUDA_HOME"]
        if other_torch:
            ways.append(f"take a torch for the one found (`{other_torch}`)")
        ways.append("leave the GPU out with `export CUDA_VISIBLE_DEVICES=`")
        raise SetupError(
            f"to build mmcv's operators for the GPU a CUDA {torch_cuda} toolkit is"
            f" needed (found: {found}): {', or '.join(ways)}"
        )
    return Build("the CPU", {"FORCE_CUDA": "0"})


# --- the steps ------------------------------------------------------------------------


def make_venv(env):
    """Create the environment, or mend it; a working one stays as it is."""
    version = output_of(env.python, "-c", "import sys; print(*sys.version_info[:2])")
    if version is None:
        say(f"{env.name} with Python {sys.version.split()[0]}")
        command = (sys.executable, "-m", "venv", "--clear", env.folder)
        result = run(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if result.returncode:
            raise SetupError(f"python -m venv failed: {result.stdout.strip()}")
    elif not SUPPORTED[0] <= tuple(map(int, version.split())) <= SUPPORTED[1]:
        raise SetupError(
            f"{env.name} is of an unsupported Python: remove it and try again"
        )
    remove_torn_packages(env.folder)
    has_pip = output_of(env.python, "-m", "pip", "--version") is not None
    if not has_pip and output_of(env.python, "-m", "ensurepip") is None:
        raise SetupError(f"{env.name} has no pip: remove it and try again")


def remove_torn_packages(folder):
    """Make pip install again what an interrupted pip had begun to install.

    The RECORD is the last file that pip writes. Without it a package looks installed,
    cannot be uninstalled, and may lack anything.
    """
    for packages in folder.glob("lib/python3*/site-packages"):
        for info in packages.glob("*.dist-info"):
            if not (info / "RECORD").exists():
                shutil.rmtree(str(info))
        for torn in packages.glob("~*"):  # pip's name for what it was taking away
            shutil.rmtree(str(torn), ignore_errors=True)


def install(env, parts):
    """Install everything, in the order that its parts need each other.

    Args:
        env: the environment.
        parts: the distributions with mmengine, mmcv and mmdet, or none.
    """
    env.log.write_text("")
    env.constraints.write_text(constraints_of(env.stack))
    say(f"output of pip goes to {env.log.relative_to(ROOT)}")
    # First: everything below is built against this torch or admits it.
    pip(env, "torch (the largest download)", "torch", "numpy")
    pip(env, "build tools", "setuptools", "wheel", "packaging", "ninja", "psutil")
    if parts:
        mmengine, mmcv, mmdet = parts
        pip(env, "mmengine", mmengine)
        install_mmcv(env, mmcv)
        pip(env, "mmdetection", "--no-build-isolation", mmdet)
    tools = ("pytest", "pytest-xdist", "hypothesis", "ruff", "safetensors", "gdown")
    pip(env, "tools for tests and files", *tools)
    # An older torch comes with the one triton that it works with, or with none.
    if parts and sys.platform == "linux" and platform.machine() == "x86_64":
        step = "triton, whose kernels are tested in its interpreter"
        pip(env, step, "triton>=3.4")
    pip(env, "odconv_det", "--no-deps", "--no-build-isolation", "-e", ".")


def install_mmcv(env, distribution):
    """Install mmcv with operators that fit this machine's torch."""
    torch = output_of(env.python, "-c", TORCH)
    if torch is None:
        raise SetupError(
            f"torch is installed but cannot be imported: {env.name}/bin/python -c"
            f" 'import torch' says why; `rm -rf {env.name}` starts anew"
        )
    sees_gpu, version, *cuda = torch.split()
    torch_cuda, gpu = "".join(cuda), sees_gpu == "1"
    check_driver(env, version, torch_cuda, gpu)
    toolkit = find_toolkit()
    nvcc = toolkit and output_of(pathlib.Path(toolkit, "bin", "nvcc"), "--version")
    release = nvcc and nvcc.partition("release ")[2].partition(",")[0]
    other = release and known()["torch_for"](release, version, env.pip)
    build = choose_build(torch_cuda, gpu, toolkit, release, other)
    cores = len(os.sched_getaffinity(0))
    environment = dict(os.environ, **build.environment)
    # -g0: the interpreter's default -g triples the build's time. Optimisation stays.
    environment["CFLAGS"] = (os.environ.get("CFLAGS", "") + " -g0").strip()
    environment.setdefault("MAX_JOBS", str(cores))
    step = f"mmcv, its operators built for {build.device}"
    usual = f"usually 7 to 10 minutes on 2 cores; cores of this machine: {cores}"
    if "CUDA" in build.device:
        usual = f"tens of minutes on few cores; cores of this machine: {cores}"
    arguments = ["--no-build-isolation", distribution]
    pip(env, f"{step} ({usual})", *arguments, environment=environment)
    if not operators_fit(env, build):
        # An older build, or one that pip had kept from another torch.
        arguments += ["--force-reinstall", "--no-deps", "--no-cache-dir"]
        pip(env, f"{step} anew ({usual})", *arguments, environment=environment)


def operators_fit(env, build):
    """Whether mmcv's operators load, and know CUDA if they should."""
    built_for = output_of(env.python, "-c", OPERATORS)
    if built_for is None:
        return False
    return "CUDA" not in build.device or "not available" not in built_for


def pip(env, step, *arguments, **options):
    """Install with pip under the constraints; its output goes to the log."""
    say(step)
    started = time.time()
    command = [str(env.python), "-m", "pip", "install", "-c", str(env.constraints)]
    with env.log.open("a") as log:
        print("\n$ pip install", *arguments, file=log, flush=True)
        process = subprocess.Popen(
            command + list(arguments),
            cwd=str(ROOT),
            env=options.get("environment"),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait()
        except KeyboardInterrupt:
            # pip has got the Ctrl-C too: let it remove its temporary files.
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.terminate()
            raise
    if status:
        tail = env.log.read_text(errors="replace").splitlines()[-25:]
        print("\n".join(tail), file=sys.stderr)
        step, log_name = step.split(" (")[0], env.log.relative_to(ROOT)
        raise SetupError(
            f"pip could not install {step}: see above and {log_name}. It needs the"
            f" network and disk space; `{env.make}` tries again"
        )
    say(f"  {time.time() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
