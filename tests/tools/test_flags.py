"""What the tools take for a flag."""

import runpy
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("train.py", ["config.py"]),
        ("test.py", ["config.py", "weights.pth"]),
        ("convert_official.py", ["weights.pth", "out.pth"]),
        ("inflate.py", ["weights.pth", "config.py", "out.pth"]),
    ],
)
def test_no_shorter_word_trusts_a_file(tool, arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [tool, "--trust-check", *arguments])
    parse_args = runpy.run_path(str(TOOLS / tool))["parse_args"]
    with pytest.raises(SystemExit):
        parse_args()
    assert "unrecognized arguments: --trust-check" in capsys.readouterr().err
