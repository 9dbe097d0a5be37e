"""The quick checks of a store, before a program starts that another process records."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from loaderlab.config import UserError
from loaderlab.tracking.precheck import refuse_unusable


def test_a_store_that_can_be_used(store_uri: str, tmp_path: Path) -> None:
    refuse_unusable(store_uri, "new")
    refuse_unusable(store_uri, "empty")
    refuse_unusable(f"sqlite:///{tmp_path}/new/mlflow.db", "new")


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_locked_store_is_left_to_the_end(mode: str, store_uri: str) -> None:
    with closing(sqlite3.connect(store_uri.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute(f"BEGIN {mode}")
        refuse_unusable(store_uri, "empty")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mlruns", "must be sqlite:///… or the http://… of a tracking server"),
        ("sqlite://", "would be in memory only"),
        ("sqlite:///:memory:", "would be in memory only"),
        ("sqlite:///{}/file/mlflow.db", "cannot be opened or written"),
        ("sqlite:///{}/file", "file is not a database"),
        ("sqlite:///{}", "unable to open database file"),
    ],
)
def test_a_store_that_can_never_be_used(uri: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text" * 1000)
    with pytest.raises(UserError, match=message) as raised:
        refuse_unusable(uri.format(tmp_path), "mine")
    assert "\n" not in f"{raised.value}"


def test_a_uri_that_needs_decoding_is_left_to_the_store() -> None:
    refuse_unusable("sqlite:////proc/none%20/mlflow.db", "mine")


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UserError, match="no tracking server answers there"):
            refuse_unusable(f"http://127.0.0.1:{port}", "mine")
        unused.listen()
        refuse_unusable(f"http://127.0.0.1:{port}", "mine")


def test_an_experiment_that_cannot_be_used(store_uri: str) -> None:
    client = MlflowClient(store_uri)
    client.delete_experiment(client.create_experiment("old"))
    with pytest.raises(UserError, match="was deleted in this store"):
        refuse_unusable(store_uri, "old")
    for name in ("", "x" * 501):
        with pytest.raises(UserError, match="must have 1 to 500 characters"):
            refuse_unusable(store_uri, name)
