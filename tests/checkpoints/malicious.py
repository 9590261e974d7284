"""Files that try to do more than hold tensors; each says what it would leave behind."""

import io
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import torch

__all__ = [
    "ATTACKS",
    "GARBLED",
    "MARK",
    "REASONS",
    "RunsCode",
    "behind_its_part",
    "instead",
    "left_out",
    "saved",
    "text",
]

# What the code in a malicious file would make in the working folder.
MARK = "the file ran code"


class RunsCode:
    """Pickled, it is a call of os.system."""

    def __reduce__(self):
        return os.system, (f"touch '{MARK}'",)


def weights() -> dict:
    return {"meta": {}, "state_dict": {"conv1.weight": torch.rand(4, 3, 7, 7)}}


def saved(content: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def repacked(
    content: object,
    change: Callable[[bytes], bytes] = lambda pickled: pickled,
    extra: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The archive of torch.save with another pickle, further members, or compressed."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(content))) as source,
        zipfile.ZipFile(file, "w", compression) as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, change(data) if name.endswith("data.pkl") else data)
        for name, data in (extra or {}).items():
            target.writestr(name, data)
    return file.getvalue()


def pickled(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)


def call(name: str, *arguments: object) -> bytes:
    """A pickle that calls a function by its name."""
    module, _, function = name.rpartition(".")
    parts = pickled(arguments)[2:-1]  # without the protocol and the stop
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + parts + b"R."


def instead(code: bytes) -> bytes:
    return repacked(weights(), lambda _: code)


def with_getattr() -> bytes:
    """HistoryBuffer.__init__.__globals__, from where everything can be had."""
    history = b"cmmengine.logging.history_buffer\nHistoryBuffer\n"
    inner = b"cbuiltins\ngetattr\n" + history + b"X\x08\x00\x00\x00__init__\x86R"
    return instead(
        b"\x80\x02cbuiltins\ngetattr\n" + inner + b"X\x0b\x00\x00\x00__globals__\x86R."
    )


def numbers_of_objects() -> bytes:
    """An array whose raw bytes would be taken for pointers to objects."""
    raw = b"c_codecs\nencode\n" + text("AAAAAAAA") + text("latin1") + b"\x86R"
    return instead(array_of("O8", raw))


def bomb() -> bytes:
    """Some hundred kilobytes that unpack to 256 MiB."""
    return repacked(
        {"state_dict": {"weight": torch.zeros(64 * 2**20)}},
        compression=zipfile.ZIP_DEFLATED,
    )


def bomb_in_a_bomb() -> bytes:
    """Two kilobytes that unpack to 64 MiB, and say that they do not."""
    small = bytes(64 * 2**20)
    content = repacked(weights(), extra={"x": small}, compression=zipfile.ZIP_BZIP2)
    return content.replace(struct.pack("<I", len(small)), struct.pack("<I", 9))


def two_archives() -> bytes:
    """One archive for Python's reader, and a bomb for torch's."""
    inner = bomb()
    end = inner.rindex(b"PK\x05\x06")
    count, size, place = struct.unpack_from("<HII", inner, end + 10)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", b"x")
    outer = file.getvalue()
    outer_end = outer.rindex(b"PK\x05\x06")
    _, outer_size, outer_place = struct.unpack_from("<HII", outer, outer_end + 10)

    def list_at(place: int, size: int, count: int) -> bytes:
        return struct.pack(
            "<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, place
        )

    body = inner[:end] + list_at(place, size, count)
    told = end  # where torch is told to look
    body += outer[:outer_end]
    body += list_at(len(body) - outer_end + outer_place, outer_size, 1)
    body += struct.pack("<IIQI", 0x07064B50, 0, told, 1)
    return body + b"PK\x05\x06" + bytes(4) + b"\xff" * 12 + bytes(2)


def two_lists() -> bytes:
    """The list of parts is not where the archive says."""
    content = repacked(weights())
    (place,) = struct.unpack_from("<I", content, len(content) - 6)
    return content[:place] + bytes(100) + content[place:]


def behind_its_part() -> bytes:
    """A tensor that claims more numbers than its part of the archive has."""
    content = {"weight": torch.zeros(7)}
    many = b"J" + struct.pack("<i", 10_000)
    return repacked(
        content,
        lambda data: data.replace(b"K\x07", many),
        {"archive/x": bytes(range(200)) * 250},
    )


class Scripted(torch.nn.Module):
    """Its file is a program."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def script() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Scripted()), file)
    return file.getvalue()


def old_content() -> bytes:
    """The old format up to its tensor of 7 numbers; a list of storages follows."""
    content = saved({"weight": torch.zeros(7)}, _use_new_zipfile_serialization=False)
    stream = io.BytesIO(content)
    for _ in range(4):  # magic, protocol, system, content
        for _ in pickletools.genops(stream):
            pass
    return content[: stream.tell()]


def left_out() -> bytes:
    """The old format, with numbers that nobody wrote and the room for them."""
    return old_content() + pickled([]) + bytes(100)


def expanded() -> bytes:
    """A tensor of 4 TiB whose numbers are all the same one in memory."""
    return saved({"weight": torch.zeros(1).expand(2**20, 2**20)})


def text(words: str) -> bytes:
    encoded = words.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def hidden_config() -> bytes:
    """A dict whose get() and items() lie about the text that MMEngine would execute."""
    config = text("config") + text(f"open({MARK!r}, 'w')")
    meta = b"}(" + text("epoch") + b"K\x01" + text("iter") + b"K\x01" + config + b"u"
    content = b"\x80\x02ccollections\nOrderedDict\n)R("
    content += text("meta") + meta + text("state_dict") + b"}" + text("message_hub")
    liar = b"c_codecs\nencode\ns"
    return instead(content + b"}u}" + text("get") + liar + text("items") + liar + b"b.")


def changed_class() -> bytes:
    """A HistoryBuffer whose state makes an array of it, with anything inside."""
    state = b"}}" + text("__class__") + b"cnumpy\nndarray\ns\x86b."
    history = b"cmmengine.logging.history_buffer\nHistoryBuffer\n"
    return instead(b"\x80\x02" + history + b")\x81" + state)


def empty_storage() -> bytes:
    """The old format, with a storage of half a gigabyte and not a number in it."""
    many = b"J" + struct.pack("<i", 2**27)
    return old_content().replace(b"K\x07", many) + pickled([])


def climbing_tar() -> bytes:
    """The oldest format of torch, an archive whose member would leave its folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo(f"../../{MARK}")
        archive.addfile(member, io.BytesIO(b""))
    return file.getvalue()


def hook_of_parameter() -> bytes:
    parameter = torch.nn.Parameter(torch.rand(1))
    parameter.callback = RunsCode()
    return saved({"state_dict": {"weight": parameter}})


def made_array(kind: bytes) -> bytes:
    """Operations that make an empty array of this class."""
    arguments = kind + b"K\x00\x85" + text("b") + b"\x87R"
    return b"cnumpy.core.multiarray\n_reconstruct\n" + arguments


def array_of(kind: str, raw: bytes) -> bytes:
    """A pickle of an array of this type, whose content is what ``raw`` makes."""
    number = b"cnumpy\ndtype\n" + text(kind) + b"\x89\x88\x87R"
    state = b"(K\x01K\x01\x85" + number + b"\x89" + raw + b"tb."
    return b"\x80\x02" + made_array(b"cnumpy\nndarray\n") + state


# Why each is refused: another reason would mean that its own check is gone.
REASONS: dict[str, str] = {
    "calls getattr on a class": "asks for the attribute __init__",
    "array of pointers": "NumPy array of type O8",
    "dict that hides a config": "holds no state dict",
    "buffer that changes its class": "cannot be read",
    "old format, storage without numbers": "more numbers than the file",
    "zip bomb": "unpacks to 268,435,",
    "zip bomb that lies about its size": "is compressed",
    "two archives in one file": "its archive has two ends",
    "two lists in one archive": "its archive has two lists of parts",
    "memory of the process": r"numbers of a tensor of shape \(7,\) are not in it",
    "TorchScript": "is a TorchScript program",
    "class that is not listed": "could run code",
    "sparse tensor": "tensor of the kind torch.sparse_coo|could run code",
    "subclass of an array": "subclass of NumPy's array",
    "array of text": "NumPy array of objects",
    "tensor that is larger than its file": r"tensor of shape \(1048576, 1048576\)",
    "tar with a path that climbs": "no whole torch file",
    "member with a path that climbs": "inline_container",
}

ATTACKS: dict[str, Callable[[], bytes]] = {
    "calls os.system": lambda: saved({**weights(), "extra": RunsCode()}),
    "calls os.system, old format": lambda: saved(
        {**weights(), "extra": RunsCode()}, _use_new_zipfile_serialization=False
    ),
    "a bare pickle that calls os.system": lambda: pickled(RunsCode()),
    "attribute of a parameter calls os.system": hook_of_parameter,
    "calls eval": lambda: instead(call("builtins.eval", f"open({MARK!r}, 'w')")),
    "calls exec by its old name": lambda: instead(
        call("__builtin__.eval", f"open({MARK!r}, 'w')")
    ),
    "calls getattr on a class": with_getattr,
    "calls torch.load": lambda: instead(call("torch.load", "other.pth")),
    "calls runpy": lambda: instead(call("runpy.run_path", "other.py")),
    "calls pickle.loads": lambda: instead(call("_pickle.loads", pickled(RunsCode()))),
    "calls numpy.load": lambda: instead(call("numpy.load", "other.npy", None, True)),
    "array of pointers": numbers_of_objects,
    "a whole module": lambda: saved({"model": torch.nn.Linear(1, 1)}),
    "dict that hides a config": hidden_config,
    "buffer that changes its class": changed_class,
    "old format, storage without numbers": empty_storage,
    "zip bomb": bomb,
    "zip bomb that lies about its size": bomb_in_a_bomb,
    "two archives in one file": two_archives,
    "two lists in one archive": two_lists,
    "memory of the process": lambda: instead(call("torch.FloatTensor", 7)),
    "TorchScript": script,
    "class that is not listed": lambda: saved({"size": {"w": torch.Generator()}}),
    "sparse tensor": lambda: saved({"weight": torch.eye(3).to_sparse()}),
    "subclass of an array": lambda: instead(
        b"\x80\x02" + made_array(b"ccollections\nOrderedDict\n") + b"."
    ),
    "array of text": lambda: instead(array_of("i8", text("AAAAAAAA"))),
    "tensor that is larger than its file": expanded,
    "tar with a path that climbs": climbing_tar,
    "member with a path that climbs": lambda: repacked(
        {"model": torch.nn.Linear(1, 1)}, extra={f"../../{MARK}": b""}
    ),
}


def flipped(content: bytes) -> bytes:
    place = content.index(b"/data/0") + 200
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\0")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


GARBLED: dict[str, Callable[[], bytes]] = {
    "empty": bytes,
    "a web page": lambda: b"<html>404</html>",
    "a picture": _png,
    "first half": lambda: saved(weights())[: len(saved(weights())) // 2],
    "all but the last bytes": lambda: saved(weights())[:-30],
    "old format, first half": lambda: saved(
        weights(), _use_new_zipfile_serialization=False
    )[:1200],
    "a flipped bit among the numbers": lambda: flipped(saved(weights())),
    "without its pickle": lambda: _without(".pkl"),
    "without its numbers": lambda: _without("/data/0"),
    "an empty archive": lambda: b"PK\x05\x06" + bytes(18),
    "numbers instead of a dict": lambda: saved([1, 2, 3]),
    "no tensors": lambda: saved({"state_dict": {"weight": "much"}}),
    "keys that are no names": lambda: saved({3: torch.rand(1)}),
    "refers to itself": lambda: instead(b"\x80\x02]q\x00h\x00a."),
    "nested too deep": lambda: instead(b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."),
}


def _without(ending: str) -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(weights()))) as source,
        zipfile.ZipFile(file, "w") as target,
    ):
        for name in source.namelist():
            if not name.endswith(ending):
                target.writestr(name, source.read(name))
    return file.getvalue()
