"""`loaderlab server`: its checks before the server starts, and the program that it starts."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from loaderlab.cli import server as command
from loaderlab.config import ExitCode
from loaderlab.tracking.server import ServerPlan, check

URI = "postgresql://ann:secret@127.0.0.1:9/runs"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The programs that would have replaced this process."""
    programs: list[list[str]] = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "execv", lambda _, program: programs.append(program))
    monkeypatch.setattr(command, "store_root", lambda: tmp_path)
    return programs


def plan(tmp_path: Path, store: str = "", host: str = "127.0.0.1", allowed: tuple[str, ...] = ()) -> ServerPlan:
    return ServerPlan(store or f"sqlite:///{tmp_path}/server.db", tmp_path / "artifacts", host, 5000, 2, allowed)


def test_the_server_gets_its_folder_and_its_database_but_no_password_in_its_arguments(
    started: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command.start(["--port", "0"]) == ExitCode.SUCCESS
    [program] = started
    assert program[:5] == [sys.executable, "-m", "mlflow", "server", "--serve-artifacts"]
    assert program[program.index("--artifacts-destination") + 1] == (tmp_path / "mlruns" / "server_artifacts").as_uri()
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlruns/server.db"
    assert (tmp_path / "mlruns" / "server_artifacts").is_dir()
    output = capsys.readouterr().out
    assert "tracking.uri=http://127.0.0.1:0" in output
    assert "type --host 0.0.0.0" in output
    assert "secret" not in " ".join(plan(tmp_path, URI).program())
    assert plan(tmp_path, URI).environment()["MLFLOW_BACKEND_STORE_URI"] == URI


def test_a_server_for_other_machines_answers_to_the_names_of_this_one(tmp_path: Path) -> None:
    open_to_all = plan(tmp_path, host="0.0.0.0", allowed=("results.example",))
    assert open_to_all.address == f"http://{socket.gethostname()}:5000"
    environment = open_to_all.environment()
    hosts = environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {f"{socket.gethostname()}:*", "results.example:*", "localhost:*", "10.*"} <= set(hosts)
    assert "http://results.example:*" in environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" not in plan(tmp_path).environment()  # MLflow's default: this machine
    assert plan(tmp_path, allowed=("*",)).environment()["MLFLOW_SERVER_ALLOWED_HOSTS"] == "*"


def test_a_port_in_use_is_an_error(started: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert command.start(["--port", str(port)]) == ExitCode.FAILED
    assert f"--port={port}: cannot listen" in capsys.readouterr().err
    assert not started


@pytest.mark.parametrize("store", ["http://host:5000", "folder", "file:///tmp/x"])
def test_a_store_that_is_no_database_is_an_error(
    store: str, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.start(["--port", "0", "--store", store]) == ExitCode.FAILED
    assert f"--store={store}: must begin with postgresql://" in capsys.readouterr().err
    assert not started


def test_a_database_that_does_not_answer_is_an_error_without_its_password(
    started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL: pip install 'loaderlab[server]'")
    assert command.start(["--port", "0", "--store", URI]) == ExitCode.FAILED
    output = capsys.readouterr()
    assert "--store=postgresql://ann:***@127.0.0.1:9/runs: the database cannot be used: " in output.err
    assert "refused" in output.err
    assert "secret" not in output.err + output.out
    assert not started


def test_a_missing_driver_is_named_with_its_extra(
    started: list[list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert command.start(["--port", "0", "--store", URI]) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert "needs the Python package psycopg, which is not installed" in error
    assert "[server]" in error
    assert "secret" not in error


def test_a_folder_that_cannot_be_written_is_an_error(
    started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.start(["--port", "0", "--artifacts", "/dev/null/x"]) == ExitCode.FAILED
    assert "--artifacts=/dev/null/x: cannot be used as a folder" in capsys.readouterr().err
    assert not started


def test_experiments_whose_artifacts_are_not_with_the_server_are_named(tmp_path: Path, empty_store: Path) -> None:
    store = tmp_path / "server.db"
    store.write_bytes(empty_store.read_bytes())
    with closing(sqlite3.connect(store)) as connection, connection:
        insert = "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES (?, ?, 'active')"
        connection.execute(insert, ("local", "file:///somewhere"))
        connection.execute(insert, ("served", "mlflow-artifacts:/7"))
    notes = [
        note for note in check(plan(tmp_path, f"sqlite:///{store}")) if "experiment local" in note or "served" in note
    ]
    assert len(notes) == 1
    assert "file:///somewhere" in notes[0]


def test_workers_must_be_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.start(["--workers", "0"])
    assert "must be a whole number of at least 1" in capsys.readouterr().err
