"""One line for a person, a traceback for a developer."""

import logging
import re
import sys
from types import SimpleNamespace

import pytest

from odconv_det.checkpoints import CheckpointError
from odconv_det.plugin import errors
from odconv_det.plugin.errors import ToolError, one_line_errors


@pytest.mark.parametrize("kind", [ToolError, CheckpointError])
def test_error_of_a_user_is_one_line_and_status_2(kind, capsys):
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise kind("nothing\n  there")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: nothing there\n"


def test_error_of_the_program_keeps_its_traceback():
    with pytest.raises(RuntimeError), one_line_errors():
        raise RuntimeError("a bug")


def test_first_process_of_a_machine_reports_before_the_others(monkeypatch):
    waits = []
    monkeypatch.setattr(errors.time, "sleep", waits.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit), one_line_errors():
            raise ToolError("nothing there")
    assert len(waits) == 1


def test_the_development_mode_of_python_shows_where_it_comes_from(monkeypatch, capsys):
    with pytest.raises(SystemExit), one_line_errors():
        raise ToolError("nothing there")
    assert "Traceback" not in capsys.readouterr().err
    development = SimpleNamespace(flags=SimpleNamespace(dev_mode=True), stderr=None)
    monkeypatch.setattr(errors, "sys", development)
    development.stderr = sys.stderr
    with pytest.raises(SystemExit), one_line_errors():
        raise ToolError("nothing there") from KeyError("the cause")
    said = capsys.readouterr().err
    assert "KeyError: 'the cause'" in said
    assert said.endswith("error: nothing there\n")


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(28, "No space left on device"), "No space left.*make room, and wait$"),
        (PermissionError(13, "Permission denied", "w.pth"), "w.pth cannot be used"),
    ],
)
def test_an_error_of_the_disk_is_one_line(error, line, capsys):
    with pytest.raises(SystemExit) as end, one_line_errors("wait"):
        raise error
    assert end.value.code == 2
    [said] = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {line}", said)


def test_an_error_of_a_connection_keeps_its_traceback():
    with pytest.raises(ConnectionResetError), one_line_errors():
        raise ConnectionResetError(104, "Connection reset by peer")


def test_a_log_that_cannot_be_written_is_no_traceback_a_line(capsys, monkeypatch):
    class Full(logging.Handler):
        def emit(self, record):
            try:
                raise OSError(28, "No space left on device")
            except OSError:
                self.handleError(record)

    monkeypatch.setattr(logging, "raiseExceptions", True)
    with one_line_errors():
        Full().handle(logging.makeLogRecord({}))
    assert capsys.readouterr().err == ""
