"""Checks of a store that take a few milliseconds, for ``loaderlab watch``, whose run another process records.

Does not import MLflow. They report what is wrong for good. Everything else, such as a store that is locked at the moment, is left to `Store`.
"""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from loaderlab.config import UserError, refuse
from loaderlab.system.causes import reason, safe_text
from loaderlab.tracking.sqlite_store import connect, try_once

SERVER_S = 1.0  # a server that takes longer to answer is left to `Store`
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks")  # those of MLflow
MAX_NAME = 500  # characters of an experiment's name in MLflow


def refuse_unusable(uri: str, experiment: str) -> None:
    """Checks a store and the name of an experiment. Creates the folder and the empty file of an SQLite store.

    Raises:
        UserError: the store cannot be opened or written, or the experiment cannot be used.
    """
    if not 0 < len(experiment) <= MAX_NAME:
        raise refuse("--experiment", experiment, f"must have 1 to {MAX_NAME} characters", "--experiment=mine")
    if "://" not in uri:
        raise _refused(uri, "must be sqlite:///… or the http://… of a tracking server")
    scheme = uri.partition("://")[0].partition("+")[0]
    if scheme not in SCHEMES:
        raise _refused(uri, f"must begin with {', '.join(f'{name}://' for name in SCHEMES)}")
    if uri.startswith("http"):
        _refuse_closed_port(uri)
    elif (file := _plain_file(uri)) is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try_once(file, create=True, busy_s=0)
            _refuse_deleted(uri, file, experiment)
        except (OSError, sqlite3.Error) as error:
            if "locked" not in safe_text(error):  # at the moment, another process writes
                raise _refused(uri, f"the MLflow store cannot be opened or written: {reason(error)}") from error


def _plain_file(uri: str) -> Path | None:
    """The file of an SQLite store whose URI needs no decoding; None for other stores."""
    scheme, _, path = uri.partition("://")
    if scheme.partition("+")[0] != "sqlite" or set("%?#") & set(path):
        return None
    if path in ("", "/", "/:memory:"):
        raise _refused(uri, "would be in memory only, and lost at the end of the run")
    return Path(path.removeprefix("/"))


def _refuse_closed_port(uri: str) -> None:
    parts = urlsplit(uri)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with suppress(TimeoutError):
            socket.create_connection((parts.hostname or "", port), timeout=SERVER_S).close()
    except (OSError, ValueError) as error:
        raise _refused(uri, f"no tracking server answers there: {reason(error)}") from None


def _refuse_deleted(uri: str, file: Path, experiment: str) -> None:
    """Raises an error if the experiment was deleted. A store without MLflow's tables, or with others, is left to `Store`."""
    with closing(connect(file, 0)) as connection, suppress(sqlite3.OperationalError):
        query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"
        for number, stage in connection.execute(query, (experiment,)):
            if stage != "active":
                raise refuse(
                    "--experiment",
                    experiment,
                    "was deleted in this store",
                    f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {number}, or use another name",
                    is_example=False,
                    error=UserError,
                )


def _refused(uri: str, why: str) -> UserError:
    return refuse("--uri", uri, why, "--uri=sqlite:////tmp/mlflow.db", error=UserError)
