"""What the tools take for a flag."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.parametrize("tool", ["train.py", "test.py"])
def test_help_imports_nothing_that_takes_long(tool):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['tool', '--help']\n"
        f"sys.path.insert(0, {str(TOOLS)!r})\n"
        "try:\n"
        f"    runpy.run_path({str(TOOLS / tool)!r}, run_name='__main__')\n"
        "finally:\n"
        "    print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--cfg-options" in done.stdout
    imported = done.stdout.splitlines()[-1]
    assert "'argparse'" in imported
    for name in ("torch", "numpy", "mmengine", "mmcv", "mmdet", "odconv_det"):
        assert f"'{name}'" not in imported


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
