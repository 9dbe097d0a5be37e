"""The tracking server: checks of its database and its folder, and the program and environment that start it.

Its artifacts are proxied: a run on another machine sends its files to the server, which alone can write their folder.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loaderlab.config import UserError, refuse
from loaderlab.system.causes import causes, reason
from loaderlab.system.extras import how_to_install
from loaderlab.system.program import command
from loaderlab.tracking import quieten_mlflow
from loaderlab.tracking.sqlite_store import sqlite_file, try_once
from loaderlab.tracking.uri import without_password

SCHEMES = ("postgresql", "mysql", "mssql", "sqlite")
DRIVERS = {
    "psycopg": how_to_install("server"),
    "psycopg2": "pip install psycopg2-binary",
    "MySQLdb": "pip install mysqlclient",
}
CONNECT_S = 10
PROXIED = "mlflow-artifacts:"  # the start of the location of artifacts that the server keeps
LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::", "")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")
PRIVATE_HOSTS = ("10.*", "192.168.*", *(f"172.{number}.*" for number in range(16, 32)), "fc00:*", "fd00:*")
EXAMPLE = "--store=postgresql://user:password@host/database"


@dataclass(frozen=True)
class ServerPlan:
    """The settings of a server.

    Attributes:
        store: the URI of its database.
        artifacts: the folder that it keeps artifacts in.
        host, port: where it listens.
        allowed_hosts: further names under which machines may reach it; ``*``: any.
    """

    store: str
    artifacts: Path
    host: str
    port: int
    workers: int
    allowed_hosts: Sequence[str] = ()

    @property
    def address(self) -> str:
        """The address that other machines use, as far as this one knows."""
        host = socket.gethostname() if self.host in EVERY_ADDRESS else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK

    def program(self) -> list[str]:
        """The command line. It has no database: everybody on this machine can read the arguments of a process."""
        return [
            *(sys.executable, "-m", "mlflow", "server", "--serve-artifacts"),
            *("--artifacts-destination", self.artifacts.absolute().as_uri()),
            *("--host", self.host, "--port", str(self.port), "--workers", str(self.workers)),
            *("--uvicorn-opts", "--no-access-log"),
        ]

    def environment(self) -> dict[str, str]:
        """The environment of the server, in addition to this process's."""
        hosts = "*" if "*" in self.allowed_hosts else ",".join(self._hosts())
        origins = "*" if hosts == "*" else ",".join(f"http://{host}" for host in self._hosts())
        checked = (
            {}
            if self.is_local and not self.allowed_hosts
            else {"ALLOWED_HOSTS": hosts, "CORS_ALLOWED_ORIGINS": origins}
        )
        return {
            "MLFLOW_BACKEND_STORE_URI": self.store,
            # MLflow's queues for evaluation jobs start eight more processes, which tracking does not need
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),  # deprecations in MLflow's own imports
            **{f"MLFLOW_SERVER_{name}": text for name, text in checked.items()},
        }

    def _hosts(self) -> list[str]:
        """The names and addresses under which the server answers: MLflow's own list, and the names of this machine."""
        names = dict.fromkeys((*LOCAL_HOSTS, socket.gethostname(), socket.getfqdn(), self.host, *self.allowed_hosts))
        return [*(f"{name}{port}" for name in names if name not in ("", "::") for port in ("", ":*")), *PRIVATE_HOSTS]


def check(plan: ServerPlan) -> list[str]:
    """Notes for the user, after trying the database and the folder.

    Raises:
        UserError: the database cannot be reached or written, its driver is missing, or the folder cannot be written.
    """
    if plan.store.partition("://")[0].partition("+")[0] not in SCHEMES or "://" not in plan.store:
        raise _refused(plan.store, f"must begin with {', '.join(f'{name}://' for name in SCHEMES)}")
    try:
        plan.artifacts.mkdir(parents=True, exist_ok=True)
        if not os.access(plan.artifacts, os.W_OK | os.X_OK):
            raise PermissionError("it is not writable")
    except OSError as error:
        raise refuse(
            "--artifacts",
            plan.artifacts,
            f"cannot be used as a folder: {reason(error)}",
            "--artifacts=/tmp/artifacts",
            error=UserError,
        ) from None
    quieten_mlflow()
    return [
        f"note: experiment {name} keeps its artifacts in {location}, which the server does not: runs on other machines cannot write there. "
        "Use another tracking.experiment"
        for name, location in _not_proxied(plan.store)
    ]


def _not_proxied(uri: str) -> list[tuple[str, str]]:
    """The experiments whose artifacts are not with the server, from one attempt to read the database: MLflow retries for minutes."""
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.exc import SQLAlchemyError

    options = {"connect_timeout": CONNECT_S} if uri.startswith("postgresql") else {}
    try:
        if (file := sqlite_file(uri)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            try_once(file, create=True)
        engine = create_engine(uri, connect_args=options)
        try:
            with engine.connect() as connection:
                if not inspect(connection).has_table("experiments"):
                    return []
                query = "SELECT name, artifact_location FROM experiments WHERE lifecycle_stage = 'active' AND name != 'Default'"
                rows = [(str(name), str(location)) for name, location in connection.execute(text(query))]
        finally:
            engine.dispose()
    except ImportError as error:
        install = DRIVERS.get(str(error.name), f"pip install {error.name}")
        raise refuse(
            "--store",
            without_password(uri),
            f"needs the Python package {error.name}, which is not installed",
            install,
            is_example=False,
            error=UserError,
        ) from None
    except (SQLAlchemyError, sqlite3.Error, OSError, ValueError) as error:
        inner = next((each for each in _originals(error) if isinstance(each, BaseException)), error)
        raise _refused(uri, f"the database cannot be used: {reason(inner)}") from None
    return [(name, location) for name, location in rows if not location.startswith(PROXIED)]


def _originals(error: Exception) -> Iterator[object]:
    """The errors of the database's driver, to which SQLAlchemy adds the statement and a link."""
    return (getattr(each, "orig", None) for each in (error, *causes(error)))


def _refused(uri: str, why: str) -> UserError:
    return refuse(
        "--store",
        without_password(uri),
        without_password(why.replace(uri, without_password(uri))),
        EXAMPLE,
        error=UserError,
    )


def started_lines(plan: ServerPlan) -> list[str]:
    """What the command prints before the server starts."""
    lines = [
        f"{plan.address} keeps runs in {without_password(plan.store)} and artifacts in {plan.artifacts}; Ctrl-C ends it",
        f"on each node: {command('train')} tracking.uri={plan.address}",
    ]
    if plan.is_local:
        lines.append("only this machine can reach it: for other machines, type --host 0.0.0.0")
    else:
        lines.append("it has no login: everybody who can reach this port can read, change and delete runs")
    return lines
