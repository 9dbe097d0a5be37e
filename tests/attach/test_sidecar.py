"""The recording process as a program sees it: its messages, its environment, and a connection that may be closed or reused."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from loaderlab.attach import sidecar
from loaderlab.attach.launching import environment
from loaderlab.attach.sidecar import Ending, RecordingProcess, ending_of
from loaderlab.config import AUTO, UserError
from loaderlab.system.processes import Terminated


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RecordingProcess, socket.socket]]:
    """A recording process that is not one: the other end of its connection."""
    own, other = socket.socketpair()
    process = RecordingProcess(own, tmp_path / "rows.log")
    with other:
        yield process, other
    process._forget()


def answer(other: socket.socket, text: str, *, recorded: bool) -> None:
    other.sendall(json.dumps({"recorded": recorded, "text": text}).encode())
    other.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, Ending(0)),
        (SystemExit(), Ending(0)),
        (SystemExit(7), Ending(7)),
        (SystemExit(-1), Ending(255)),
        (SystemExit("no data\nhere"), Ending(1, "exit code 1: no data … here")),
        (ValueError("no more"), Ending(1, "ValueError: no more")),
        (KeyboardInterrupt(), Ending(130, "interrupted by Ctrl-C", interrupted=True)),
        (Terminated(), Ending(128 + signal.SIGTERM, "interrupted by SIGTERM", interrupted=True)),
    ],
)
def test_the_ending_of_a_program(error: BaseException | None, ending: Ending) -> None:
    assert ending_of(error) == ending


def test_it_says_where_the_run_is(
    pair: tuple[RecordingProcess, socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    process, other = pair
    answer(other, "recorded: there", recorded=True)
    assert process.finish(Ending(7))
    assert json.loads(other.recv(1000)) == {"exit_code": 7, "error": "", "interrupted": False}
    assert other.recv(1) == b""
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "recorded: there\n")


def test_it_says_why_there_is_no_run(
    pair: tuple[RecordingProcess, socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    process, other = pair
    answer(other, "not recorded: the store is locked", recorded=False)
    assert not process.finish(Ending(0))
    assert capsys.readouterr().err == "not recorded: the store is locked\n"


@pytest.mark.parametrize("sent", [b"", b'{"recorded": tr', b"[]"])
def test_a_recording_process_that_ends_without_an_answer_is_reported(
    sent: bytes, pair: tuple[RecordingProcess, socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    process, other = pair
    other.sendall(sent)
    other.close()
    assert not process.finish(Ending(0))
    assert "ended without an answer; see" in capsys.readouterr().err


def test_it_does_not_wait_for_ever(
    pair: tuple[RecordingProcess, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sidecar, "SILENT_S", 0.01)
    monkeypatch.setattr(sidecar, "WAIT_S", 0.05)
    assert not pair[0].finish(Ending(0))
    waiting, problem = capsys.readouterr().err.splitlines()
    assert waiting.startswith("recording the run in MLflow")
    assert problem.startswith("not recorded")


def test_the_end_is_announced_once(pair: tuple[RecordingProcess, socket.socket]) -> None:
    process, other = pair
    process.announce(Ending(3))
    process.announce(Ending(4))
    answer(other, "recorded: there", recorded=True)
    process.finish(Ending(5))
    assert json.loads(other.recv(1000))["exit_code"] == 3


def test_a_forked_child_neither_reports_nor_keeps_the_connection(pair: tuple[RecordingProcess, socket.socket]) -> None:
    process, other = pair
    from_child, of_child = os.pipe()
    to_child, of_parent = os.pipe()
    if (child := os.fork()) == 0:
        process.announce(Ending(9))
        finished = process.finish(Ending(9))
        os.write(of_child, b"finished" if finished else b"nothing")
        os.read(to_child, 1)  # until the parent has looked
        os._exit(0)
    try:
        assert os.read(from_child, 100) == b"nothing"
        process._forget()  # as if this process were killed
        assert other.recv(100) == b""
    finally:
        os.write(of_parent, b"x")
        os.waitpid(child, 0)
        for descriptor in (from_child, of_child, to_child, of_parent):
            os.close(descriptor)


def test_nothing_is_sent_to_another_file_with_the_same_descriptor(
    pair: tuple[RecordingProcess, socket.socket], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that closes all descriptors, as a daemon does, and then opens its own files."""
    process, _ = pair
    own = tmp_path / "own"
    with own.open("wb") as file:
        number = process._connection.fileno() if process._connection is not None else -1
        os.dup2(file.fileno(), number)
        assert not process.finish(Ending(0))
        os.fstat(number)  # still open
        os.close(number)
    assert own.read_bytes() == b""
    assert "the program closed the connection" in capsys.readouterr().err


def test_variables_that_select_a_run_or_a_store_are_left_out() -> None:
    own = {"MLFLOW_RUN_ID": "1", "MLFLOW_TRACKING_URI": "x", "MLFLOW_EXPERIMENT_NAME": "y", "PYTHONWARNINGS": "error"}
    access = {"MLFLOW_TRACKING_TOKEN": "t", "MLFLOW_S3_ENDPOINT_URL": "u"}
    other = {"HOME": "/h", "OMP_NUM_THREADS": "64"}
    assert environment({**own, **access, **other}) == {
        **access,
        "HOME": "/h",
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }


@pytest.mark.parametrize(
    ("name", "uri", "experiment", "message"),
    [
        (" ", AUTO, "mine", "the run needs a name"),
        ("run", "mlruns", "mine", "must be sqlite:///… or the http://…"),
        ("run", "sqlite:////proc/none/mlflow.db", "mine", "cannot be opened or written"),
        ("run", "sqlite:////tmp/mlflow.db", "", "must have 1 to 500 characters"),
    ],
)
def test_errors_that_are_known_at_once_are_reported_at_once(
    name: str, uri: str, experiment: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "launched", lambda *_: pytest.fail("started"))
    with pytest.raises(UserError, match=message):
        RecordingProcess.start(name, uri, experiment, tmp_path / "rows")


def test_a_missing_extra_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.system.extras._installed", lambda module: module != "mlflow")
    with pytest.raises(UserError, match="loaderlab watch --record needs mlflow, which is not installed. Type: pip"):
        RecordingProcess.start("run", AUTO, "mine", tmp_path / "rows")


def test_a_process_that_cannot_be_started_is_reported(store_uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the recording process cannot be started"):
        RecordingProcess.start("run", store_uri, "mine", tmp_path / "none" / "rows")
