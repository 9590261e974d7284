"""Read and write files of tensors. Pickled code is never run."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odconv_det.checkpoints.errors import (
    CheckpointError,
    MissingCheckpointError,
    shown,
)
from odconv_det.checkpoints.keys import check_names
from odconv_det.checkpoints.untrusted import read_torch

__all__ = [
    "check_suffix",
    "read_tensors",
    "whole_file",
    "write_tensors",
]


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or torch file, on the CPU.

    Of a training checkpoint, the ``state_dict`` is returned and the rest is left.

    Raises:
        MissingCheckpointError: if there is no such file.
        CheckpointError: if the file is broken, holds something other than tensors under
            string keys or a name both with and without ``module.``, or needs code of
            its own to be read.
    """
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file raises for a path that is too long
        raise MissingCheckpointError(f"no weight file at {path}")
    content = _read_safetensors(path) if _is_safetensors(path) else read_torch(path)
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            mend = ""
            if isinstance(value, Mapping):
                mend = ": if the weights are in there, save them alone"
            raise CheckpointError(
                f"{path} is no state dict: under the key {shown(key)} is no tensor"
                f"{mend}"
            )
    check_names(content, path)
    return dict(content)


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    library = _safetensors(path)
    try:
        return library.torch.load_file(path)
    except (library.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file: {error}") from None


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``.safetensors`` or ``.pth``; the file appears whole or not at all.

    ``metadata`` goes into the header of a safetensors file, and under ``meta`` beside
    the ``state_dict`` of a torch file.

    Raises:
        ValueError: for another suffix.
        CheckpointError: if the disk does not take it.
    """
    path = check_suffix(path)
    # Each has its own memory: safetensors refuses tensors that share one.
    copies = {
        key: value.detach().clone(memory_format=torch.contiguous_format)
        for key, value in tensors.items()
    }
    meta = dict(metadata or {})
    if _is_safetensors(path):
        # Not save_file: its files can be read by their owner only.
        content = _safetensors(path).torch.save(copies, meta)
    else:
        buffer = io.BytesIO()  # torch's own errors do not tell that a disk is full
        torch.save({"meta": meta, "state_dict": copies}, buffer)
        content = buffer.getvalue()
    try:
        with whole_file(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}): see that its folder is "
            f"yours and has room for {len(content) / 2**20:.1f} MiB, or name another"
        ) from error


def check_suffix(path: str | os.PathLike[str], source: str | None = None) -> Path:
    """The path, if :func:`write_tensors` can write a file of this name.

    Raises:
        ValueError: for a suffix other than ``.safetensors`` and ``.pth``, a folder, or
            the file that the tensors come from.
    """
    path = Path(path)
    if not (_is_safetensors(path) or path.suffix == ".pth"):
        raise ValueError(f"write .safetensors or .pth, not {path.name!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file to write")
    if source is not None and path.resolve() == Path(source).resolve():
        raise ValueError(f"{path} is the source: name another file")
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place if all goes well.

    Whatever interrupts the block, ``path`` is what it was before; once the block is
    done, its content outlasts a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)  # left by a killed process of this number
    part.touch(exist_ok=False)  # a link that somebody puts there is not followed
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Put the names of a folder's files on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safetensors(path: Path) -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(
            f"{path.name} needs the safetensors package: pip install safetensors"
        ) from None
    return safetensors
