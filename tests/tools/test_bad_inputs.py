"""Every bad input of docs/bad-input.md: one line, an exit status, and nothing else."""

import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import odconv_det.layers
from odconv_det import env
from tests.bad_inputs import CASES
from tests.bad_inputs.case import Case, Environment, Layer, Tool
from tests.bad_inputs.page import PAGE, rendered
from tests.tiny_detector import write_tiny_detector

ROOT = Path(__file__).parents[2]
EVERY = [case for cases in CASES.values() for case in cases]


def of_kind(kind: type[Case]) -> list:
    """The cases as parameters of a test."""
    return [
        pytest.param(case, id=case.name) for case in EVERY if isinstance(case, kind)
    ]


def check(case: Case, said: str) -> None:
    """Three dots in the message of a case are anything."""
    pattern = ".*".join(map(re.escape, case.message.split("...")))
    assert re.fullmatch(pattern, said), said


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_detector(folder)
    return folder


@pytest.fixture
def folder(template, tmp_path) -> Path:
    return shutil.copytree(template, tmp_path / "run")


@pytest.fixture(scope="module")
def busy_port() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("", 0))
        listening.listen()
        yield str(listening.getsockname()[1])


def test_no_two_cases_have_one_name_and_every_message_says_something():
    assert len(EVERY) >= 45
    assert len({case.name for case in EVERY}) == len(EVERY)
    assert all(len(case.message.replace("...", "")) > 15 for case in EVERY)


def test_the_page_shows_every_case():
    text = PAGE.read_text()
    assert rendered(text) == text, "python -m tests.bad_inputs writes it anew"
    assert text.count("<!-- cases: ") == len(CASES)
    assert all(f"| {case.wrong} |" in text for case in EVERY)


@pytest.mark.parametrize("case", of_kind(Tool))
def test_a_tool_says_it_in_one_line_and_leaves_nothing(case, folder, forge, busy_port):
    with (folder / "tiny.py").open("a") as config:
        config.write(dedent(case.config))
    case.spoil(folder)
    before = everything(folder)
    script, *words = case.command
    variables = {
        name: value.replace("BUSY_PORT", busy_port)
        for name, value in case.environment.items()
    }
    status, output = forge.run(folder, ROOT / script, *words, **variables)
    assert "Traceback" not in output, output
    # argparse puts the name of the script in front.
    said = re.findall(r"^(?:\w+\.py: )?error: (.*)$", output, re.MULTILINE)
    assert len(said) == 1, output
    check(case, said[0])
    assert status in (1, 2)
    left = everything(folder) - before
    in_work_dir = {path for path in left if path.startswith("work_dirs")}
    assert bool(in_work_dir) == case.leaves_work_dir
    assert left == in_work_dir
    assert not any(path.endswith((".pth", ".part")) for path in left)


@pytest.mark.parametrize("case", of_kind(Layer))
def test_a_layer_raises_it(case):
    layer = getattr(odconv_det.layers, case.kind)
    with pytest.raises(ValueError, match="must") as error:
        layer(8, 8, 3, **case.arguments)
    check(case, str(error.value))


@pytest.mark.parametrize("case", of_kind(Environment))
def test_the_environment_is_judged_so(case, monkeypatch, capsys):
    monkeypatch.setattr(env, "installed_distributions", lambda: dict(case.installed))
    monkeypatch.setattr(env, "probe", lambda: case.runtime)
    assert env.main() == 1
    printed = capsys.readouterr().out
    found = re.search(r"^problem: (.*)\n  fix: (.*)$", printed, re.MULTILINE)
    check(case, f"{found[1]} {found[2]}")
