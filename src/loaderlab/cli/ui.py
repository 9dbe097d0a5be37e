"""``loaderlab ui``: starts the MLflow UI, by default with the default store."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from loaderlab.cli import exit_table
from loaderlab.cli.frame import framed
from loaderlab.config import INSTALLED, TrackingConfig, UserError, store_root
from loaderlab.system.causes import reason
from loaderlab.system.extras import require
from loaderlab.system.program import command


def start(arguments: Sequence[str]) -> int:
    """The exit code if the server cannot start; otherwise the server replaces this process.

    Raises:
        SystemExit: ``--help``, or an unknown option (exit code 2).
    """
    parser = argparse.ArgumentParser(
        prog=command("ui"),
        description="Starts the MLflow UI, by default with the default store.",
        epilog="\n".join(exit_table.lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = "the working folder" if INSTALLED else "this checkout"
    parser.add_argument("--port", type=int, default=5000, help="default 5000")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1: the UI has no login")
    parser.add_argument("--store", default="auto", help=f"sqlite:///… ; default: mlruns/mlflow.db of {where}")
    chosen = parser.parse_args(arguments)
    return framed("ui", lambda: serve(chosen.host, chosen.port, chosen.store))


def serve(host: str, port: int, uri: str) -> None:
    """Replaces this process with the UI's server.

    Raises:
        UserError: MLflow is not installed, the port is taken, or the store cannot be opened.
    """
    require(command("ui"), "mlflow")
    refuse_taken("ui", host, port)

    from loaderlab.tracking import open_store, ui_view
    from loaderlab.tracking.uri import store_uri

    settings = TrackingConfig(uri=uri)
    store = open_store(settings, store_root())  # creates a missing store, and marks runs that were killed
    address = store_uri(settings, store_root())
    server = f"http://{host}:{port}"
    print(f"{server} shows {address}; Ctrl-C ends it", flush=True)
    for line in ui_view.addresses(server, store.experiment_id):
        print(line, flush=True)
    program = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        address,
        "--host",
        host,
        "--port",
        str(port),
    ]
    program += ["--workers", "1"]  # enough for one user; each of MLflow's default four imports for seconds
    # MLflow's queues for evaluation jobs start eight more processes, which the UI does not need
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.execv(sys.executable, program)


def refuse_taken(name: str, host: str, port: int) -> None:
    """Raises an error if no server can listen on the port.

    Args:
        name: of the command: ui.

    Raises:
        UserError: the port is taken or not allowed.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            free = 5000 if not 0 < port < 65535 else port + 1
            again = f"{command(name)} --port {free}" if INSTALLED else f"make {name} PORT={free}"
            raise UserError(f"--port={port}: cannot listen on {host}:{port}: {reason(error)}. Type: {again}") from None
