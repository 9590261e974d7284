"""Files at ``https://`` addresses, which must say what they are to hold.

An address ends in ``#sha256=`` and the 64 hexadecimal digits of its file's hash. The
file lies under that hash in the cache folder, so no address can lead out of it.
"""

from __future__ import annotations

import hashlib
import re
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from odconv_det.checkpoints.errors import CheckpointError, MissingCheckpointError
from odconv_det.checkpoints.files import whole_file

__all__ = ["SCHEMES", "fetch"]

SCHEMES = ("http://", "https://")

_SUFFIXES = (".safetensors", ".pth.tar", ".pth", ".pt")
_GREATEST = 16 * 2**30  # bytes: a server must not fill the disk
_PIECE = 2**20
_SECONDS = 60  # without a byte


def fetch(address: str, folder: Path, *, download: bool = True) -> Path:
    """The file behind an address with a hash, from ``folder`` or downloaded to it.

    Raises:
        CheckpointError: if the address has no sha256, or its file another one.
        MissingCheckpointError: if the file is not there and cannot be downloaded.
    """
    try:
        url, fragment = urldefrag(address)
        name = urlsplit(url).path
    except ValueError as error:
        raise CheckpointError(f"{address} is no address ({error})") from None
    wanted = re.fullmatch("sha256=([0-9a-fA-F]{64})", fragment)
    if wanted is None:
        raise CheckpointError(
            f"{address} is refused without its hash, since anything could be there: "
            f"write '{url}#sha256=' and the 64 digits that sha256sum prints for the "
            "right file, or download it yourself and give its path"
        )
    sha256 = wanted[1].lower()
    suffix = next((one for one in _SUFFIXES if name.endswith(one)), ".pth")
    path = folder / f"{sha256}{suffix}"
    if path.is_file() and _hash_of(path) == sha256:
        return path
    if not download:
        raise MissingCheckpointError(f"{address} is not at {path}")
    try:
        with whole_file(path) as part:
            _download(url, part)
            found = _hash_of(part)
            if found != sha256:
                raise CheckpointError(
                    f"{url} has another sha256 than the address says, {found}: it was "
                    "changed or damaged, and is not used"
                )
    except (OSError, ValueError, HTTPException) as error:  # or a full disk
        raise MissingCheckpointError(
            f"downloading {url} failed ({error}): try again, or get the file by other "
            f"means and save it as {path}"
        ) from error
    return path


def _download(url: str, path: Path) -> None:
    with (
        urllib.request.urlopen(url, timeout=_SECONDS) as answer,
        path.open("wb") as file,
    ):
        while piece := answer.read(_PIECE):
            file.write(piece)
            if file.tell() > _GREATEST:
                raise ValueError(f"more than {_GREATEST:,} bytes")


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
