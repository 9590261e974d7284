"""Every bad input of docs/bad-input.md: one line, an exit status, and nothing else."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import odconv_det.layers
from odconv_det import env
from tests.bad_inputs import CASES, ROOT, Case, Environment, Layer, Tool
from tests.tiny_detector import write_tiny_detector

EVERY = [case for cases in CASES.values() for case in cases]


def of_kind(kind: type[Case]) -> list:
    """The cases as parameters of a test."""
    return [
        pytest.param(case, id=case.name) for case in EVERY if isinstance(case, kind)
    ]


def matches(message: str, said: str) -> bool:
    """Whether this was said; three dots are anything."""
    pattern = ".*".join(map(re.escape, message.split("...")))
    return re.fullmatch(pattern, said) is not None


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_detector(folder)
    return folder


@pytest.fixture
def folder(template, tmp_path) -> Path:
    return shutil.copytree(template, tmp_path / "run")


def everything(folder: Path) -> Iterator[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_there_are_enough_cases_and_no_two_have_one_name():
    assert len(EVERY) >= 45
    assert len({case.name for case in EVERY}) == len(EVERY)


@pytest.mark.parametrize("case", of_kind(Tool))
def test_a_tool_says_it_in_one_line_and_writes_nothing(case, folder, forge):
    with (folder / "tiny.py").open("a") as config:
        config.write("\n" + "\n".join(l.strip() for l in case.config.splitlines()))
    case.spoil(folder)
    before = everything(folder)
    script, *words = case.command
    status, output = forge.run(folder, ROOT / script, *words)
    (folder.parent / "output").write_text(output)
    assert "Traceback" not in output, output
    said = [
        found[1]
        for line in output.splitlines()
        if (found := re.match(r"(?:\w+\.py: )?error: (.*)", line))
    ]
    assert len(said) == 1, output
    assert status != 0
    assert matches(case.message, said[0]), said[0]
    left = [path for path in everything(folder) if path not in before]
    if case.leaves_work_dir:
        left = [path for path in left if not path.startswith("work_dirs")]
    assert left == []


@pytest.mark.parametrize("case", of_kind(Layer))
def test_a_layer_raises_it(case):
    layer = getattr(odconv_det.layers, case.kind)
    with pytest.raises(ValueError) as error:
        layer(8, 8, 3, **case.arguments)
    assert matches(case.message, str(error.value)), str(error.value)


@pytest.mark.parametrize("case", of_kind(Environment))
def test_the_environment_is_judged_so(case, monkeypatch, capsys):
    monkeypatch.setattr(env, "installed_distributions", lambda: dict(case.installed))
    monkeypatch.setattr(env, "probe", lambda: case.runtime)
    assert env.main() == 1
    problem, _, rest = (
        capsys.readouterr().out.partition("\nproblem: ")[2].partition("\n  fix: ")
    )
    said = f"{problem} {rest.splitlines()[0]}"
    assert matches(case.message, said), said
