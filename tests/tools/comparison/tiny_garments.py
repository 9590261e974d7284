"""Few small garments, as the files and the package of the real ones."""

import gzip
import io
import struct
import tarfile
from collections.abc import Mapping

import numpy as np

__all__ = ["files", "idx", "package"]

COUNTS = {"train": 40, "t10k": 30}


def idx(values: np.ndarray) -> bytes:
    """A gzipped idx file of bytes."""
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return gzip.compress(head + values.astype(np.uint8).tobytes(), mtime=0)


def files() -> dict[str, bytes]:
    """Ellipses, of which some have a dark print; no two are alike."""
    contents = {}
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:28, :28] - 13.5
    for name, count in COUNTS.items():
        images = np.zeros((count, 28, 28), np.uint8)
        for image in images:
            height, width = rng.uniform(5, 14, 2)
            inside = (rows / height) ** 2 + (columns / width) ** 2 <= 1
            image[inside] = rng.integers(21, 256, inside.sum())
            if rng.random() < 0.5:
                image[12:15, 12:15] = 0
        contents[f"{name}-images-idx3-ubyte.gz"] = idx(images)
        labels = rng.permutation(np.arange(count) % 10)
        contents[f"{name}-labels-idx1-ubyte.gz"] = idx(labels)
    return contents


def package(members: Mapping[str, bytes]) -> bytes:
    """A Debian package with these files in /usr/share/datasets/fashion-mnist."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",  # of odd length: members are padded
        "data.tar.xz": tar.getvalue(),
    }
    raw = b"!<arch>\n"
    for name, content in parts.items():
        raw += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        raw += content + b"\n" * (len(content) % 2)
    return raw
