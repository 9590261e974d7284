import json

import compare
import pytest
from comparison import garments, sweep
from demo import fetch

from tests.tools.comparison.test_one_run import wheel  # noqa: F401  (a fixture)

SMALL = "train --backbones odconv1x static --seeds 0 --iterations 2 --size 64 --jobs 2"
WORDS = [*SMALL.split(), "--scenes", "4", "2"]


@pytest.fixture
def place(tmp_path, monkeypatch, files, wheel):  # noqa: F811
    """Everything in ``tmp_path``, and nothing downloaded."""
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    monkeypatch.setattr(compare.fetch, "fetch", lambda *_: wheel)
    monkeypatch.setattr(garments, "files", lambda *_: files)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_real_runs_give_table_and_plot_and_are_not_repeated(place, capsys):
    words = [*WORDS, "--work-dir", "work", "--out", "out"]
    assert compare.main(words) == 0
    first = capsys.readouterr().out
    assert "4 train and 2 test scenes" in first
    assert first.index("| static |") < first.index("| ODConv 1x |")
    content = json.loads((place / "out" / "fashion.json").read_text())
    assert (place / "out" / "fashion.png").is_file()
    assert [r["backbone"] for r in content["runs"]] == ["static", "odconv1x"]
    one, other = (result["first_loss"] for result in content["runs"])
    assert one == pytest.approx(other, rel=1e-3)

    assert compare.main(words) == 0
    again = capsys.readouterr().out
    assert "2 of 2 runs were done earlier" in again
    assert again[again.index("| backbone") :] == first[first.index("| backbone") :]

    (place / "docs" / "comparison").mkdir(parents=True)
    page = place / "docs" / "comparison.md"
    page.write_text("<!-- comparison: fashion -->\n<!-- end -->\n")
    assert compare.main(["docs"]) == 1
    assert "docs/comparison/fashion.json" in capsys.readouterr().err
    assert compare.main([*WORDS, "--work-dir", "work", "--out", "docs/comparison"]) == 0
    assert compare.main(["docs"]) == 0
    assert "| ODConv 1x |" in page.read_text()


def test_the_command_in_the_results_repeats_them(place):
    text = compare.command(compare.parse_args(WORDS))
    tool, *words = text.split()
    assert tool == "tools/compare.py"
    assert compare.parse_args(words).recipe == compare.parse_args(WORDS).recipe
    assert compare.command(compare.parse_args(words)) == text


def test_a_failed_run_is_an_error_that_names_it(place, capsys, monkeypatch):
    run = sweep.Run("static", 0, {}, place)
    monkeypatch.setattr(sweep, "carry_out", lambda *_, **__: ([], [run]))
    assert compare.main(WORDS) == 1
    assert f"runs failed: {run.name}" in capsys.readouterr().err


def test_a_download_that_fails_is_one_line(place, capsys, monkeypatch):
    def refuse(*_):
        raise fetch.FetchError("cannot download it")

    monkeypatch.setattr(garments, "files", refuse)
    assert compare.main(WORDS) == 1
    assert capsys.readouterr().err == "error: cannot download it\n"


def test_an_interruption_says_how_to_go_on(place, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "carry_out", interrupted)
    assert compare.main(WORDS) == 130
    assert "does the runs that are missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        ("--iterations 1", "train nothing"),
        ("--size 32", "at least 64 px"),
        ("--scenes 0 5", "both splits need scenes"),
        ("--jobs 0", "--jobs must be at least 1"),
        ("--backbones resnet", "invalid choice"),
    ],
)
def test_what_cannot_work_is_refused_at_once(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        compare.parse_args(["train", *words.split()])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
