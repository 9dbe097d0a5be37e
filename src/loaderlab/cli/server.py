"""``loaderlab server``: starts a tracking server, to which runs on all nodes log with ``tracking.uri=http://…``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from loaderlab.cli import exit_table
from loaderlab.cli.frame import framed
from loaderlab.cli.ui import refuse_taken
from loaderlab.config import INSTALLED, store_root
from loaderlab.system.extras import require
from loaderlab.system.program import command

STORE, ARTIFACTS = Path("mlruns") / "server.db", Path("mlruns") / "server_artifacts"
EXAMPLE = "postgresql://user:password@host/database"


def start(arguments: Sequence[str]) -> int:
    """The exit code if the server cannot start; otherwise the server replaces this process.

    Raises:
        SystemExit: ``--help``, or an unknown option (exit code 2).
    """
    parser = argparse.ArgumentParser(
        prog=command("server"),
        description="Starts a tracking server that keeps the runs of all nodes and their artifacts. It has no login.",
        epilog="\n".join(exit_table.lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = "the working folder" if INSTALLED else "this checkout"
    parser.add_argument(
        "--store", metavar="URI", help=f"database: {EXAMPLE} for many nodes; default: SQLite, {STORE} of {where}"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="default 127.0.0.1: this machine only; 0.0.0.0: all its networks"
    )
    parser.add_argument("--port", type=int, default=5000, help="default 5000")
    parser.add_argument("--artifacts", type=Path, metavar="FOLDER", help=f"default: {ARTIFACTS} of {where}")
    parser.add_argument("--workers", type=_count, default=4, metavar="N", help="server processes; default 4")
    parser.add_argument(
        "--allowed-hosts",
        default="",
        metavar="NAMES",
        help="further names of this machine, separated by commas; * is any",
    )
    chosen = parser.parse_args(arguments)
    return framed("server", lambda: serve(chosen))


def serve(chosen: argparse.Namespace) -> None:
    """Replaces this process with the server.

    Raises:
        UserError: MLflow or the driver is not installed, the port is taken, the database or the folder cannot be used.
    """
    require(command("server"), "mlflow")
    refuse_taken("server", chosen.host, chosen.port)

    from loaderlab.tracking.server import ServerPlan, check, started_lines
    from loaderlab.tracking.uri import sqlite_uri

    names = [name.strip() for name in chosen.allowed_hosts.split(",") if name.strip()]
    root = store_root()
    store = chosen.store or sqlite_uri(root / STORE)
    plan = ServerPlan(store, chosen.artifacts or root / ARTIFACTS, chosen.host, chosen.port, chosen.workers, names)
    for line in (*check(plan), *started_lines(plan)):
        print(line, flush=True)
    os.environ.update(plan.environment())
    os.execv(sys.executable, plan.program())


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(text)
