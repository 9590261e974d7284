import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from comparison import garments
from demo import fetch

from tests.tools.comparison import tiny_garments


@pytest.fixture
def pinned(files, monkeypatch):
    """Pins the tiny files and the package of them instead of the real ones."""
    raw = tiny_garments.package(files)
    sums = {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()}
    own = dataclasses.replace(
        garments.PACKAGE, sha256=hashlib.sha256(raw).hexdigest(), megabytes=1
    )
    monkeypatch.setattr(garments, "SHA256", sums)
    monkeypatch.setattr(garments, "PACKAGE", own)
    return raw


class Apt:
    """Stands for apt: writes ``content`` and counts the calls."""

    def __init__(self, content):
        self.content = content
        self.requirements = []

    def __call__(self, requirement: str, folder: Path) -> None:
        self.requirements.append(requirement)
        (folder / garments.PACKAGE.filename).write_bytes(self.content)


def test_the_files_come_out_of_the_package(pinned, files, tmp_path):
    apt = Apt(pinned)
    for _ in range(2):
        found = garments.files(tmp_path, installed=tmp_path / "none", download=apt)
        assert found == files
    assert apt.requirements == ["dataset-fashion-mnist=0.0~git20200523.55506a9-1"]


def test_another_package_is_an_error_that_says_what_to_expect(pinned, files, tmp_path):
    other = Apt(pinned + b"more")
    with pytest.raises(fetch.FetchError, match=garments.PACKAGE.sha256):
        garments.files(tmp_path, installed=tmp_path / "none", download=other)
    assert list(tmp_path.iterdir()) == []


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_installed_files_are_taken_where_they_are_the_pinned_ones(
    pinned, files, tmp_path
):
    def refuse(requirement, folder):
        raise AssertionError("nothing has to be downloaded")

    write(tmp_path, files)
    assert garments.files(tmp_path, installed=tmp_path, download=refuse) == files


@pytest.mark.parametrize("change", [lambda raw: raw + b"x", None])
def test_other_installed_files_are_not_taken(pinned, files, tmp_path, change):
    name = next(iter(files))
    write(tmp_path, files)
    if change is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(change(files[name]))
    apt = Apt(pinned)
    found = garments.files(tmp_path / "new", installed=tmp_path, download=apt)
    assert found == files
    assert len(apt.requirements) == 1


def fake_apt(folder: Path, monkeypatch, script: str) -> None:
    """Put a program of this name first in the path."""
    program = folder / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def test_apt_downloads_the_pinned_version_into_the_folder(
    pinned, files, tmp_path, monkeypatch
):
    package = tmp_path / "package"
    package.write_bytes(pinned)
    fake_apt(
        tmp_path,
        monkeypatch,
        f'echo "$@" > {tmp_path}/words; cp {package} {garments.PACKAGE.filename}',
    )
    assert garments.files(tmp_path / "new", installed=tmp_path) == files
    words = (tmp_path / "words").read_text().split()
    assert words[0] == "download"
    assert words[-1] == garments.PACKAGE.requirement
    assert [path.name for path in (tmp_path / "new").iterdir()] == [
        garments.PACKAGE.filename
    ]


def test_what_apt_cannot_find_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    fake_apt(
        tmp_path,
        monkeypatch,
        "echo 'W: old lists' >&2; echo 'E: Unable to locate package x' >&2; exit 100",
    )
    with pytest.raises(fetch.FetchError) as caught:
        garments.files(tmp_path / "new", installed=tmp_path)
    message = str(caught.value)
    assert "Unable to locate package x" in message
    assert "apt-get update" in message
    assert f"put {garments.PACKAGE.filename} into {tmp_path / 'new'}" in message
    assert "\n" not in message


def test_without_apt_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.FetchError, match="only Debian and Ubuntu have apt-get"):
        garments.files(tmp_path / "new", installed=tmp_path)


def test_the_splits_are_read_as_they_were_written(files):
    for split, count in (("train", 40), ("test", 30)):
        found = garments.read(files, split)
        assert found.images.shape == (count, 28, 28)
        assert found.images.max() > 200
        assert sorted(set(found.labels.tolist())) == list(range(10))
    assert len(garments.CLASSES) == 10


@pytest.mark.parametrize(
    "raw", [b"", b"\0\0\x0d\1\0\0\0\2ab", b"\0\0\x08\1\0\0\0\2a", b"\0\0\x08\3\0\0"]
)
def test_what_is_no_idx_file_is_an_error_that_names_it(files, raw):
    name = garments.FILES["train"][0]
    with pytest.raises(ValueError, match=f"{name} is no idx file"):
        garments.read({**files, name: gzip.compress(raw)}, "train")


def test_labels_of_other_images_are_an_error(files):
    name = garments.FILES["train"][1]
    wrong = {**files, name: tiny_garments.idx(np.zeros(7, np.uint8))}
    with pytest.raises(ValueError, match=r"\(40, 28, 28\) .* \(7,\)"):
        garments.read(wrong, "train")


def test_the_real_package_is_pinned():
    assert sorted(garments.SHA256) == sorted(
        name for names in garments.FILES.values() for name in names
    )
    assert all(len(sha256) == 64 for sha256 in garments.SHA256.values())
