"""odconv:// addresses find, fetch, or say where to get a file."""

import os
import sys
import types

import pytest
import torch

from odconv_det.checkpoints import (
    CheckpointError,
    MissingCheckpointError,
    locate,
    read_tensors,
    write_tensors,
    zoo,
)

ADDRESS = "odconv://resnet50_4x"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ODCONV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def gdown(monkeypatch):
    """A stand-in whose ``download`` the test replaces; records the ids asked for."""
    module = types.ModuleType("gdown")
    monkeypatch.setitem(sys.modules, "gdown", module)
    return module


def test_every_row_of_the_release_has_an_address():
    assert len(zoo.IMAGENET) == 18
    assert len(zoo.DETECTORS) == 8
    ids = [*zoo.IMAGENET.values(), *zoo.DETECTORS.values()]
    assert len(set(ids)) == 26
    assert all(len(drive_id) == 33 for drive_id in ids)


@pytest.mark.parametrize("suffix", [".pth.tar", ".pth", ".safetensors"])
def test_finds_a_file_that_was_put_there(home, suffix):
    home.mkdir()
    path = home / f"resnet50_4x{suffix}"
    path.touch()
    assert locate(ADDRESS) == path


def test_without_gdown_it_says_what_to_get_and_where_to_put_it(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)  # import raises ImportError
    with pytest.raises(MissingCheckpointError) as caught:
        locate(ADDRESS)
    message = str(caught.value)
    assert "1uO774twnIYLiDV2BAsVM136k4EAhs6oh" in message
    assert str(home / "resnet50_4x.pth.tar") in message
    assert "pip install gdown" in message


def test_an_unwritable_home_is_part_of_the_message(monkeypatch, gdown):
    monkeypatch.setenv("ODCONV_HOME", "/proc/nothing")
    with pytest.raises(
        MissingCheckpointError, match="save it as /proc/nothing/resnet50"
    ):
        locate(ADDRESS)


def test_can_be_told_not_to_download(gdown):
    with pytest.raises(MissingCheckpointError, match="resnet50_4x is not at"):
        locate(ADDRESS, download=False)


def test_downloads_once(home, gdown):
    asked = []

    def download(id, output, quiet):  # noqa: A002  (gdown's name)
        asked.append(id)
        torch.save({"state_dict": {"w": torch.zeros(1)}}, output)

    gdown.download = download
    assert locate(ADDRESS) == locate(ADDRESS) == home / "resnet50_4x.pth.tar"
    assert asked == ["1uO774twnIYLiDV2BAsVM136k4EAhs6oh"]
    assert os.listdir(home) == ["resnet50_4x.pth.tar"]


@pytest.mark.parametrize(
    "what", ["interrupted", "half a file", "a web page", "nothing"]
)
def test_an_incomplete_download_leaves_nothing_that_looks_complete(home, gdown, what):
    def download(id, output, quiet):  # noqa: A002
        if what == "nothing":
            return
        with open(output, "wb") as file:
            file.write(b"<html>" if what == "a web page" else b"PK\x03\x04 half")
        if what == "interrupted":
            raise KeyboardInterrupt

    gdown.download = download
    expected = KeyboardInterrupt if what == "interrupted" else MissingCheckpointError
    with pytest.raises(expected):
        locate(ADDRESS)
    assert os.listdir(home) == []


def test_a_download_killed_midway_is_not_found(home, gdown):
    home.mkdir()
    (home / ".resnet50_4x.pth.tar.123.part").write_bytes(b"half")
    gdown.download = lambda id, output, quiet: torch.save(  # noqa: A006
        {"w": torch.zeros(1)}, output
    )
    assert locate(ADDRESS).name == "resnet50_4x.pth.tar"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        CheckpointError, match=r"resnet5000.*resnet50_4x.*mask-rcnn_r50"
    ):
        locate("odconv://resnet5000")


@pytest.mark.parametrize("address", ["https://example.org/w.pth", "s3://bucket/w.pth"])
def test_other_addresses_are_refused(address):
    with pytest.raises(CheckpointError, match="is refused"):
        locate(address)


def test_a_path_is_taken_as_it_is(tmp_path):
    write_tensors(tmp_path / "w.pth", {"w": torch.zeros(1)})
    assert locate(str(tmp_path / "w.pth")) == tmp_path / "w.pth"
    with pytest.raises(MissingCheckpointError, match="other.pth"):
        locate(str(tmp_path / "other.pth"))


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody-of-this-name/w.pth", "a\0b"])
def test_what_can_be_no_path_is_no_file(path):
    for reader in (locate, read_tensors):
        with pytest.raises(MissingCheckpointError, match="no weight file at"):
            reader(path)


def test_the_default_home_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ODCONV_HOME")
    assert zoo.home() == tmp_path / "odconv_det"
    monkeypatch.setenv("ODCONV_HOME", "")
    assert zoo.home() == tmp_path / "odconv_det"
