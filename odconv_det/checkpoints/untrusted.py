"""Read torch files as data: whatever a file says, none of its code is run.

``torch.load(weights_only=True)`` admits tensors and plain containers. Checkpoints of
MMEngine also hold NumPy numbers and its ``HistoryBuffer``; for these names, and no
other, stand-ins note down what the file says, and :func:`read_torch` makes numbers of
it once the pickle is read. So no code of NumPy or MMEngine ever works for the pickle.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odconv_det.checkpoints.errors import CheckpointError, shown

__all__ = ["is_torch_file", "read_torch", "trust_files"]

# (log, counts, greatest length) -> what takes the place of a HistoryBuffer.
MakeHistory = Callable[[np.ndarray, np.ndarray, int], Any]

_PLAIN = frozenset(
    [type(None), bool, int, float, complex, str, bytes]
    + [torch.Size, torch.dtype, torch.device]
)

_trusted = False
_one_at_a_time = threading.Lock()


def trust_files() -> None:
    """Let files run code from now on in this process: what ``--trust-checkpoint`` does.

    Each file is named in a warning when it is read.
    """
    global _trusted
    _trusted = True


def is_torch_file(path: str | os.PathLike[str]) -> bool:
    """Whether the file looks like one that ``torch.save`` wrote to its end."""
    if _is_archive(path):
        return zipfile.is_zipfile(path)
    with open(path, "rb") as file:
        start = file.read(2)
    # The old format is a sequence of pickles of protocol 2 or later.
    return start in [bytes([0x80, protocol]) for protocol in range(2, 6)]


def _is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether torch takes the file for an archive, by the first bytes alone."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_torch(
    path: str | os.PathLike[str],
    *,
    map_location: Any = "cpu",
    make_history: MakeHistory | None = None,
) -> Any:
    """What ``torch.save`` wrote to a file; every tensor is an ordinary one on the CPU.

    Args:
        path: of the file.
        map_location: as of ``torch.load``, for trusted files; others are read to the
            CPU.
        make_history: makes a ``HistoryBuffer``; without it they become ``None``.

    Raises:
        CheckpointError: if the file is broken, unpacks to more than it holds, or needs
            code to be run.
    """
    path = Path(path)
    if not is_torch_file(path):
        raise CheckpointError(
            f"{path} is no whole torch file (an interrupted download, or a web page in "
            "its place?): get it once more"
        )
    try:
        if _trusted:
            print(
                f"WARNING: --trust-checkpoint: {path} may run any code on this machine",
                file=sys.stderr,
                flush=True,
            )
            return torch.load(path, map_location=map_location, weights_only=False)
        is_archive = _is_archive(path)
        if is_archive:
            _check_archive(path)
        storages = _Storages(path.stat().st_size, filled=is_archive)
        with _allowed(_STAND_INS):
            # Mapped, a storage that claims more numbers than its part of the archive
            # ends with the file; else torch 2.6 hands out the memory behind it.
            content = torch.load(
                path, map_location=storages, weights_only=True, mmap=is_archive
            )
        return _Rebuild(make_history, storages).rebuild(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path} was refused: {error}") from None
    except Exception as error:  # a damaged file can fail in any part of the reader
        if refused := re.search(r"GLOBAL (\S+)|recognized function (.+)", str(error)):
            raise CheckpointError(
                f"{path} was refused, because reading it could run code (it names "
                f"{shown(refused[1] or refused[2])}): where you trust it, pass "
                "--trust-checkpoint once and save its state_dict alone"
            ) from None
        if re.search(r"operand (149|14[0-8])", str(error)):  # FRAME, of protocol 4
            raise CheckpointError(
                f"{path} was refused: it is of another pickle_protocol than torch's "
                "own, and nothing tells whether reading it would run code: get it from "
                "its author as torch.save writes it without that argument"
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = reason.partition(". ")[0]  # what torch advises is to take the risk
        raise CheckpointError(
            f"{path} cannot be read ({shown(reason, 200)}): get it once more"
        ) from None


def _check_archive(path: Path) -> None:
    """Raise CheckpointError for an archive that torch did not write, or not whole."""
    _check_end(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise CheckpointError(
                "it is a TorchScript program, which is run to be read: save its "
                "state_dict"
            )
        unpacked = sum(member.file_size for member in members)
        if unpacked > path.stat().st_size:
            raise CheckpointError(
                f"it unpacks to {unpacked:,} bytes, more than the file has, and torch "
                "does not compress"
            )
        # What a compressed part really unpacks to is known only afterwards.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError("it is compressed, and torch does not compress")
        # torch itself reads past a flipped bit.
        if damaged := archive.testzip():
            raise CheckpointError(
                f"its part {shown(damaged)} is damaged (or was saved without "
                "checksums), get it once more"
            )


def _check_end(path: Path) -> None:
    """Raise CheckpointError where torch could see another archive than Python.

    The list of parts stands right before the words that end an archive, and these say
    where it is. Python reads it there, torch where they say.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 98, 0))
        end = file.read()
    if not end[-22:].startswith(b"PK\x05\x06"):
        raise CheckpointError("something follows the end of its archive")
    list_size, list_place = struct.unpack_from("<II", end, len(end) - 10)
    list_end = size - 22
    if end[-42:].startswith(b"PK\x06\x07"):  # of archives of any size
        list_end = size - 98
        (place,) = struct.unpack_from("<Q", end, len(end) - 34)
        if place != list_end or not end.startswith(b"PK\x06\x06"):
            raise CheckpointError("its archive has two ends")
        list_size, list_place = struct.unpack_from("<QQ", end, 40)
    if list_place + list_size != list_end:
        raise CheckpointError("its archive has two lists of parts")


class _Storages:
    """A ``map_location``: memory of the file's numbers, on the CPU.

    Args:
        size: of the file, in bytes; all storages together cannot have more.
        filled: whether they have their numbers already. In the old format these come
            later, and a file may leave them out: they are 0 then, instead of what the
            process had in its memory before.
    """

    def __init__(self, size: int, filled: bool) -> None:
        self._left = size
        self._filled = filled
        self._known: dict[int, torch.UntypedStorage] = {}

    def __call__(self, storage: torch.UntypedStorage, _: str) -> torch.UntypedStorage:
        self._left -= storage.nbytes()
        if self._left < 0:
            raise CheckpointError("its tensors have more numbers than the file")
        # What is mapped would change, or end, with the file.
        kept = storage.clone() if self._filled else storage.fill_(0)
        self._known[kept.data_ptr()] = kept
        return kept

    def has(self, tensor: Tensor) -> bool:
        """Whether the tensor's numbers come from the file."""
        storage = tensor.untyped_storage()
        return storage.nbytes() == 0 or storage.data_ptr() in self._known


# --- stand-ins: called by the unpickler in the place of what a file names -------------


def _stand_in(name: str) -> Callable[[Any], Any]:
    """Give a function or class the full name under which files ask for it."""

    def rename(thing: Any) -> Any:
        thing.__module__, _, thing.__name__ = name.rpartition(".")
        thing.__qualname__ = thing.__name__  # torch reads one or the other
        return thing

    return rename


@_stand_in("mmengine.logging.history_buffer.HistoryBuffer")
class _History:
    """The numbers of a HistoryBuffer."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.log, self.counts = state["_log_history"], state["_count_history"]
        self.max_length = int(state["max_length"])


@_stand_in("builtins.getattr")
def _method_of_history(owner: object, name: object) -> None:
    """A HistoryBuffer's list of its own methods, which are not taken from a file."""
    methods = ("min", "max", "current", "mean")
    if owner is not _History or not isinstance(name, str) or name not in methods:
        raise CheckpointError(f"it asks for the attribute {shown(name)}")


@_stand_in("numpy.dtype")
class _NumberType:
    """A type of numbers; anything else raises."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch("b1|[iuf][1248]", code):
            raise CheckpointError(f"it holds a NumPy array of type {shown(code)}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in "<>" else "=")


@_stand_in("numpy.ndarray")
class _Array:
    """An array of numbers."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, number, by_columns, content = state
        numbers = np.frombuffer(_bytes(content), _dtype(number))
        self.array = numbers.reshape(shape, order="F" if by_columns else "C").copy()


def _make_array(kind: object, *_: object) -> _Array:
    if kind is not _Array:
        raise CheckpointError("it holds a subclass of NumPy's array")
    return _Array()


def _make_number(number: object, content: object) -> np.generic:
    return np.frombuffer(_bytes(content), _dtype(number), count=1)[0]


@_stand_in("builtins.bytes")
def _no_bytes() -> bytes:
    """How an array without numbers is written."""
    return b""


def _dtype(number: object) -> np.dtype:
    if not isinstance(number, _NumberType):
        raise CheckpointError("it holds a NumPy array without a type")
    return number.dtype


def _bytes(content: object) -> bytes:
    if not isinstance(content, bytes):
        raise CheckpointError("it holds a NumPy array of objects")
    return content


_STAND_INS = [_History, _method_of_history, _NumberType, _Array, _no_bytes]
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1 and 2
    for _name, _function in (("_reconstruct", _make_array), ("scalar", _make_number)):

        def _called(*args: Any, _function: Callable[..., Any] = _function) -> Any:
            return _function(*args)

        _STAND_INS.append(_stand_in(f"{_module}.{_name}")(_called))


@contextmanager
def _allowed(names: list[Any]) -> Iterator[None]:
    """Let the unpickler call exactly these, besides torch's own."""
    with _one_at_a_time:  # torch's list is that of the whole process
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(names)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


class _Rebuild:
    """Make fresh, ordinary objects of what a file holds, and check its tensors.

    Nothing of the unpickled containers is kept: a file can give them attributes that
    hide their methods. A type that is not listed here is refused.

    Args:
        make_history: as of :func:`read_torch`.
        storages: of the file; its tensors can have no others.
    """

    def __init__(self, make_history: MakeHistory | None, storages: _Storages) -> None:
        self._make_history = make_history
        self._storages = storages
        # Each object once: a file may refer to one from very many places.
        self._done: dict[int, tuple[Any, Any]] = {}

    def rebuild(self, node: Any) -> Any:
        """The object in the place of ``node``."""
        if id(node) not in self._done:
            self._done[id(node)] = node, self._rebuilt(node)
        return self._done[id(node)][1]

    def _rebuilt(self, node: Any) -> Any:
        kind = type(node)
        if kind in _PLAIN or isinstance(node, np.generic):
            return node
        if kind in (Tensor, torch.nn.Parameter):
            return self._checked(node)
        if kind in (list, tuple, set, frozenset):
            return kind(self.rebuild(value) for value in kind.__iter__(node))
        if kind in (dict, OrderedDict, Counter):
            fresh = kind()
            for key, value in kind.items(node):
                fresh[self.rebuild(key)] = self.rebuild(value)
            metadata = vars(node).get("_metadata") if kind is OrderedDict else None
            if metadata is not None:  # what versions its modules were of
                fresh._metadata = self.rebuild(metadata)
            return fresh
        if kind is _Array:
            return node.array
        if kind is _History:
            if self._make_history is None:
                return None
            log, counts = self.rebuild(node.log), self.rebuild(node.counts)
            return self._make_history(log, counts, node.max_length)
        raise CheckpointError(f"it holds an object of the kind {kind.__name__}")

    def _checked(self, tensor: Tensor) -> Tensor:
        """The tensor, if it is a plain one that the file has the numbers of."""
        vars(tensor).clear()  # a file can give it any attributes
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise CheckpointError(f"it holds a tensor of the kind {tensor.layout}")
        if not self._storages.has(tensor):
            raise CheckpointError(
                f"the numbers of a tensor of shape {tuple(tensor.shape)} are not in it"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"a tensor of shape {tuple(tensor.shape)} has more numbers than the "
                "file"
            )
        return tensor
