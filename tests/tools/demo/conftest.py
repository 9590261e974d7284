"""Builds wheels to read from."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


@pytest.fixture
def make_wheel(tmp_path: Path) -> Callable[[str, Mapping[str, bytes]], Path]:
    """Writes a zip archive with the given members."""

    def make(name: str, members: Mapping[str, bytes]) -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return path

    return make
