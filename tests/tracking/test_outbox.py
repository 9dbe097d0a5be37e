"""The outbox and the spool: what a tracking server does not accept stays on disk, complete and in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from loaderlab.tracking import outbox
from loaderlab.tracking.operations import END, FILE, TAGS, Operation, file_operations
from loaderlab.tracking.outbox import Outbox, send_pending
from loaderlab.tracking.request_limits import LIMITS, limited_requests
from loaderlab.tracking.spool import REMAINS_S, Address, Spool, spools
from loaderlab.tracking.uri import without_password

TO = Address("http://127.0.0.1:9", "test", "a run")


class Server:
    """Keeps what is sent to it; raises ``error`` while there is one, and waits while it is ``stuck``."""

    def __init__(self) -> None:
        self.received: list[tuple[str, object]] = []
        self.texts: dict[str, str] = {}
        self.error: Exception | None = None
        self.num_attempts = 0
        self.free = threading.Event()
        self.free.set()

    def send(self, operation: Operation) -> None:
        self.num_attempts += 1
        self.free.wait()
        if self.error is not None:
            raise self.error
        if operation.file is not None and operation.kind == FILE:
            self.texts[operation.file.name] = operation.file.read_text()
        self.received.append((operation.kind, operation.values))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def box(server: Server, said: list[str], tmp_path: Path) -> Outbox:
    return Outbox(Spool(tmp_path / "unsent", "r1"), TO, server.send, said.append)


def tag(number: int) -> Operation:
    return Operation(TAGS, {"number": str(number)})


def numbers(server: Server) -> list[int]:
    return [int(values["number"]) for kind, values in server.received if kind == TAGS]  # type: ignore[index]


def test_a_server_that_answers_gets_everything_in_order_and_nothing_stays(
    box: Outbox, server: Server, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "files" / "inner").mkdir(parents=True)
    (tmp_path / "files" / "a.txt").write_text("a")
    (tmp_path / "files" / "inner" / "b.txt").write_text("b")
    box.write([tag(1), tag(2)])
    box.write(file_operations(tmp_path / "files", "under"))
    box.write([tag(3)])
    box.finish()
    assert numbers(server) == [1, 2, 3]
    assert server.texts == {"a.txt": "a", "b.txt": "b"}
    assert [values for kind, values in server.received if kind == FILE] == [
        {"under": "under"},
        {"under": "under/inner"},
    ]
    assert not said
    assert not (tmp_path / "unsent").exists()


def test_training_does_not_wait_for_a_server_that_hangs(
    box: Outbox, server: Server, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "WAIT_S", 1.0)
    server.free.clear()
    for number in range(5):
        box.write([tag(number)])  # returns although no request has been answered
    assert server.num_attempts == 1
    assert len(said) == 1
    assert "no answer within 1 s" in said[0]
    assert len(Spool(tmp_path / "unsent", "r1").pending()) == 5
    server.free.set()
    box.finish()
    assert numbers(server) == list(range(5))


def test_after_a_failure_nothing_is_tried_until_the_pause_is_over(
    box: Outbox, server: Server, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.error = OSError("connection refused")
    box.write([tag(1)])
    box.write([tag(2)])
    assert server.num_attempts == 1
    assert "connection refused" in said[0]
    server.error = None
    box.write([tag(3)])
    assert numbers(server) == []
    monkeypatch.setattr(box, "_paused_until", 0.0)
    box.write([tag(4)])
    assert numbers(server) == [1, 2, 3, 4]


def test_what_is_left_at_the_end_is_kept_and_named(
    box: Outbox, server: Server, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE_S", 0.0)
    server.error = OSError("connection refused")
    box.write([tag(1), Operation(END, {"status": "FINISHED", "ms": 1})])
    box.finish()
    assert "2 records of run r1 were not accepted" in said[-1]
    assert "connection refused" in said[-1]
    assert said[-1].endswith("sync")
    [spool] = spools(tmp_path / "unsent")
    assert [entry.read() for entry in spool.pending()] == [(TO, {"number": "1"}), (TO, {"status": "FINISHED", "ms": 1})]
    assert spool.has(END)


def test_an_operation_that_the_server_refuses_stays_and_does_not_block_others(server: Server, tmp_path: Path) -> None:
    spool = Spool(tmp_path, "r1")
    for number in range(3):
        spool.add(TO, TAGS, {"number": str(number)})

    def send(operation: Operation) -> None:
        if operation.values == {"number": "1"}:
            raise MlflowException("too long", INVALID_PARAMETER_VALUE)
        server.send(operation)

    sent = send_pending(spool, send, lambda: False)
    assert (sent.num_sent, sent.num_left) == (2, 1)
    assert "too long" in sent.problem
    assert [entry.read()[1] for entry in spool.pending()] == [{"number": "1"}]


KILLED = """
import os, signal, sys
from pathlib import Path
from loaderlab.tracking.operations import Operation, TAGS
from loaderlab.tracking.outbox import Outbox
from loaderlab.tracking.spool import Address, Spool
def send(operation):
    raise OSError("connection refused")
box = Outbox(Spool(Path(sys.argv[1]), "r1"), Address("http://127.0.0.1:9", "test", "a run"), send, print)
for number in range(50):
    box.write([Operation(TAGS, {"number": str(number)})])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_spool_of_a_killed_process_is_complete(server: Server, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    send_pending(Spool(tmp_path, "r1"), server.send, lambda: False)
    assert numbers(server) == list(range(50))


def test_several_senders_at_once_send_everything_once_while_the_run_still_writes(
    server: Server, tmp_path: Path
) -> None:
    """The folder disappears each time when it is empty, so this also covers adding to a folder that another one removes."""
    writing = Spool(tmp_path, "r1")
    ended = threading.Event()
    problems: list[Exception] = []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except Exception as error:
                problems.append(error)
                ended.set()

        return run

    def write() -> None:
        for number in range(300):
            writing.add(TO, TAGS, {"number": str(number)})
        ended.set()

    def send() -> None:
        reading = Spool(tmp_path, "r1")
        while not ended.is_set() or reading.pending():
            with reading.locked(lambda: False) as is_locked:
                assert is_locked
                send_pending(reading, server.send, lambda: False)

    threads = [threading.Thread(target=guarded(work)) for work in (write, send, send)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert numbers(server) == list(range(300))
    assert not list(tmp_path.glob(".r1.lock"))


def test_a_worker_that_is_forked_while_operations_are_sent_does_not_keep_the_lock(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "r1")
    spool.add(TO, TAGS, {"number": "1"})
    with spool.locked(lambda: True) as is_locked:
        assert is_locked
        worker = os.fork()
        if worker == 0:
            signal.pause()
    try:
        with Spool(tmp_path, "r1").locked(lambda: True) as is_locked:
            assert is_locked
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_a_new_process_does_not_reuse_the_number_of_an_artifact_without_an_operation(tmp_path: Path) -> None:
    (tmp_path / "r1" / "00000007.file").mkdir(parents=True)
    (tmp_path / "r1" / "00000007.file" / "steps.csv").write_text("of a killed process")
    (tmp_path / "steps.csv").write_text("whole")
    spool = Spool(tmp_path, "r1")
    spool.add(TO, FILE, {"under": ""}, tmp_path / "steps.csv")
    assert spool.pending()[0].artifact.read_text() == "whole"


def test_remains_of_a_killed_process_are_removed_after_a_while(tmp_path: Path) -> None:
    remains = tmp_path / "r1" / "00000007.file"
    remains.mkdir(parents=True)
    Spool(tmp_path, "r1").remove_remains()
    assert remains.exists()  # its process may still be writing
    for path in (remains, remains.parent):
        os.utime(path, (0, path.stat().st_mtime - REMAINS_S - 1))
    Spool(tmp_path, "r1").remove_remains()
    assert not remains.parent.exists()


def test_limits_of_requests_are_set_during_a_block_only_and_those_of_the_user_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retries, timeout = LIMITS
    monkeypatch.delenv(retries, raising=False)
    monkeypatch.setenv(timeout, "5")
    with limited_requests():
        with limited_requests():
            pass
        assert (os.environ[retries], os.environ[timeout]) == (LIMITS[retries], "5")
    assert retries not in os.environ
    assert os.environ[timeout] == "5"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ann:se:cr@et@db:5432/runs", "postgresql://ann:***@db:5432/runs"),
        ("postgresql+psycopg://ann@db/runs", "postgresql+psycopg://ann@db/runs"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
    ],
)
def test_a_password_is_not_shown(text: str, shown: str) -> None:
    assert without_password(f"tracking.uri={text}: no") == f"tracking.uri={shown}: no"
