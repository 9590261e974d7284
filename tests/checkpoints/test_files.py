"""Files are read without running code, and written whole or not at all."""

import errno
import os
import pickle
import stat
from pathlib import Path

import pytest
import torch

from odconv_det.checkpoints import (
    CheckpointError,
    MissingCheckpointError,
    read_tensors,
    write_tensors,
)

TENSORS = {"a.weight": torch.randn(2, 3), "a.count": torch.tensor(3)}


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_written_file_reads_back(tmp_path, name):
    write_tensors(tmp_path / "sub" / name, TENSORS, {"source": "test"})
    read = read_tensors(tmp_path / "sub" / name)
    same({key: read[key] for key in TENSORS}, TENSORS)
    assert os.listdir(tmp_path / "sub") == [name]


@pytest.mark.parametrize("legacy", [True, False])
def test_reads_the_weights_of_a_training_checkpoint(tmp_path, legacy):
    """As the authors' trainer saves it."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = dict(
        epoch=100,
        state_dict=TENSORS,
        acc=78.5,
        best_acc=torch.tensor(78.5),
        optimizer=optimizer.state_dict(),
    )
    path = tmp_path / "model.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    same(read_tensors(path), TENSORS)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_name_with_and_without_module_is_refused(tmp_path, suffix):
    """Readers strip the prefix: one of the two would be lost."""
    path = tmp_path / f"two{suffix}"
    write_tensors(path, {"module.a": torch.zeros(2), "b": torch.zeros(2)})
    assert set(read_tensors(path)) == {"module.a", "b"}
    write_tensors(path, {"module.a": torch.zeros(2), "a": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"two\..*both a and module\.a"):
        read_tensors(path)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_pickled_code_is_refused_and_never_run(tmp_path, plain_pickle):
    path, ran = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"state_dict": TENSORS, "x": Payload(ran)}
    if plain_pickle:
        path.write_bytes(pickle.dumps({"x": Payload(ran)}, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match="evil.pth was refused.*mkdir"):
        read_tensors(path)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>quota exceeded</html>",
        b"Quota exceeded",
        b"\x80\x02broken\n",
        "half",
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path, name, content):
    path = tmp_path / name
    if content == "half":
        write_tensors(path, TENSORS)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert "could run code" not in str(caught.value)


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    for name in ("w.safetensors", "w.pth"):
        write_tensors(tmp_path / name, TENSORS)
        assert (tmp_path / name).stat().st_mode == (tmp_path / "other").stat().st_mode


def test_weights_under_another_key_are_told_to_be_saved_alone(tmp_path):
    torch.save({"model": dict(TENSORS)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="model is no tensor: .* them alone"):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, [1, 2], {"state_dict": {"a": 1}}, {1: 2}])
def test_something_else_than_a_state_dict_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="state dict"):
        read_tensors(tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingCheckpointError, match="nothing.pth"):
        read_tensors(tmp_path / "nothing.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_full_disk_leaves_the_old_file_and_is_one_line(tmp_path, monkeypatch, name):
    path = tmp_path / name
    write_tensors(path, TENSORS)

    def full_disk(file, content):
        with file.open("wb") as half:
            half.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(CheckpointError, match="No space left on device.*room for"):
        write_tensors(path, {"b": torch.zeros(1)})
    same(read_tensors(path), TENSORS)
    assert os.listdir(tmp_path) == [name]


def test_a_place_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written.*or name another"):
        write_tensors(tmp_path / "file" / "w.pth", TENSORS)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_tensors_that_share_memory_are_written(tmp_path, name):
    tied = torch.rand(4, 3)
    tensors = {"embedding": tied, "head": tied, "part": tied[1:], "turned": tied.T}
    write_tensors(tmp_path / name, tensors)
    same(read_tensors(tmp_path / name), tensors)


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """And its name before the next thing is done."""
    events = []
    fsync, replace = os.fsync, Path.replace

    def flushed(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("flush folder" if folder else "flush file")
        fsync(descriptor)

    def renamed(self, target):
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    write_tensors(tmp_path / "w.pth", TENSORS)
    assert events == ["flush file", "rename", "flush folder"]


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    path = tmp_path / "w.pth"
    (tmp_path / f".w.pth.{os.getpid()}.part").symlink_to(other)
    write_tensors(path, TENSORS)
    assert other.read_text() == "mine"
    assert not path.is_symlink()


def test_a_link_that_comes_after_it_was_looked_for_is_an_error(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / f".w.pth.{os.getpid()}.part").symlink_to(other)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: None)
    with pytest.raises(CheckpointError, match="File exists"):
        write_tensors(tmp_path / "w.pth", TENSORS)
    assert other.read_text() == "mine"


def test_a_key_without_end_is_a_short_line(tmp_path):
    key = ()
    for _ in range(15):
        key = (key, key)
    torch.save({key: torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="under the key a tuple is no tensor"):
        read_tensors(tmp_path / "w.pth")


def test_refuses_another_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"w\.onnx"):
        write_tensors(tmp_path / "w.onnx", TENSORS)
