"""A stop from outside is one line and the exit status that shells expect."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from multiprocessing.resource_sharer import DupFd

import pytest

from odconv_det.plugin import signals
from odconv_det.plugin.signals import WORDS, end_when_stopped


@pytest.fixture(autouse=True)
def _usual():
    """As in a process of its own, and afterwards as it was."""
    complain = sys.unraisablehook
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGALRM: signal.SIG_DFL,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGCHLD: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, how) for number, how in usual.items()}
    yield
    for number, how in before.items():
        signal.signal(number, how)
    sys.unraisablehook = complain


def handlers():
    return [signal.getsignal(number) for number in WORDS]


@pytest.mark.parametrize("number", WORDS, ids=WORDS.values())
def test_a_signal_is_one_line_and_its_status(number, capsys):
    with pytest.raises(SystemExit) as end, end_when_stopped("go on"):
        signal.raise_signal(number)
    assert end.value.code == 128 + number
    assert capsys.readouterr().err == f"{WORDS[number]}: go on\n"


def test_what_the_signal_broke_on_its_way_is_not_shown(capsys):
    def broken():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise RuntimeError("worker is killed by signal: Terminated")

    with pytest.raises(SystemExit) as end, end_when_stopped("go on"):
        broken()
    assert end.value.code == 143
    assert end.value.__suppress_context__
    assert capsys.readouterr().err == "terminated: go on\n"


class Signals:
    """Gets a signal where Python drops every exception."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_a_finalizer_is_not_lost(capfd, monkeypatch):
    def work():
        del [Signals()][0]
        time.sleep(20)

    monkeypatch.setattr(signals, "SECONDS", 0.2)
    with pytest.raises(SystemExit) as end, end_when_stopped("go on"):
        work()
    assert end.value.code == 143
    assert capfd.readouterr().err == "terminated: go on\n"


def test_a_signal_at_the_very_end_of_the_work_does_not_come_later(monkeypatch):
    monkeypatch.setattr(signals, "SECONDS", 0.5)
    with end_when_stopped("go on"):
        del [Signals()][0]
    time.sleep(0.8)


def test_a_worker_that_dies_meanwhile_does_not_complain(capfd):
    def complain(*_):
        raise RuntimeError("a worker is gone")

    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGCHLD)

    signal.signal(signal.SIGCHLD, complain)
    with pytest.raises(SystemExit), end_when_stopped("go on"):
        work()
    assert capfd.readouterr().err == "interrupted: go on\n"


def test_a_signal_that_is_sent_twice_ends_once():
    with pytest.raises(SystemExit), end_when_stopped("go on"):
        signal.raise_signal(signal.SIGINT)
    for number in WORDS:
        signal.raise_signal(number)


def test_an_error_without_a_signal_is_an_error():
    before = handlers()
    with pytest.raises(RuntimeError, match="a bug"), end_when_stopped("go on"):
        raise RuntimeError("a bug")
    assert handlers() == before


def test_nothing_changes_after_an_end_without_a_signal():
    before = handlers()
    with end_when_stopped("go on"):
        assert all(now != then for now, then in zip(handlers(), before, strict=True))
    assert handlers() == before


def test_whoever_handles_sigterm_gets_both_signals():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for number in WORDS:
        with pytest.raises(KeyboardInterrupt), end_when_stopped("go on"):
            signal.raise_signal(number)


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with end_when_stopped("go on"):
        signal.raise_signal(signal.SIGINT)


def test_the_first_of_several_processes_speaks_for_all(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit), end_when_stopped("go on"):
        signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 7), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_forked_worker_leaves_ctrl_c_to_its_parent(number, status):
    with end_when_stopped("go on"):
        child = os.fork()
        if not child:
            signal.raise_signal(number)
            os._exit(7)
        _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) == status


def offer(pipe):
    """Offer a file to whoever asks, as a data loader's worker does with its tensors."""
    pipe.send(DupFd(0))
    pipe.recv()


def leave_in_the_middle():
    """Start a worker and turn to it for a file twice, the first time in vain."""
    context = multiprocessing.get_context("fork")
    ours, its = context.Pipe()
    worker = context.Process(target=offer, args=(its,), daemon=True)
    worker.start()
    offered = ours.recv()
    address, _ = offered._id
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
    os.close(offered.detach())  # after it has dealt with the first one
    worker.kill()
    worker.join()


def test_a_worker_that_its_parent_leaves_is_quiet(capfd):
    with end_when_stopped("go on"):
        leave_in_the_middle()
    assert capfd.readouterr().err == ""


def test_it_would_not_be_quiet_otherwise(capfd):
    leave_in_the_middle()
    assert "Traceback" in capfd.readouterr().err


def test_other_errors_of_a_worker_are_reported(capfd):
    with end_when_stopped("go on"):
        child = os.fork()
        if not child:
            sys.excepthook(ValueError, ValueError("a bug"), None)
            os._exit(0)
        os.waitpid(child, 0)
    assert "ValueError: a bug" in capfd.readouterr().err


def test_a_broken_connection_of_the_process_itself_is_reported(capfd):
    with end_when_stopped("go on"):
        sys.excepthook(EOFError, EOFError("its own"), None)
    assert "EOFError: its own" in capfd.readouterr().err
