"""The MLflow UI on this project's store: python -m experiments.ui --help."""

import argparse
import os
import socket
import sys

from loaderlab.cli.platforms import unsupported
from loaderlab.system.causes import reason


def main() -> None:
    """Starts the UI in place of this process; exit code 1 if the port is taken, or on Windows."""
    parser = argparse.ArgumentParser(prog="python -m experiments.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="default 5000")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1: the UI has no login")
    parser.add_argument("--store", default="auto", help="sqlite:///… ; default: mlruns/mlflow.db of this project")
    chosen = parser.parse_args()
    if reason := unsupported(sys.platform):
        sys.exit(f"error: {reason}")
    refuse_taken(chosen.host, chosen.port)

    from loaderlab.config import PROJECT, TrackingConfig, UserError
    from loaderlab.tracking import open_store, ui_view
    from loaderlab.tracking.uri import store_uri

    settings = TrackingConfig(uri=chosen.store)
    try:
        store = open_store(settings, PROJECT)  # creates it where there is none yet, closes runs that were killed
    except UserError as error:
        sys.exit(f"error: {error}")
    uri = store_uri(settings, PROJECT)
    server = f"http://{chosen.host}:{chosen.port}"
    print(f"{server} shows {uri}; Ctrl-C ends it", flush=True)
    print(f"side by side: {server}/{ui_view.link(store.experiment_id)}", flush=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        chosen.host,
        "--port",
        str(chosen.port),
        "--workers",
        "1",  # one person looks; MLflow's own four take seconds of imports each
    ]
    # nor its queues for evaluation jobs: eight more processes, and no part of what is shown
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.execv(sys.executable, command)


def refuse_taken(host: str, port: int) -> None:
    """Exits with one message where nothing can listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            free = 5000 if not 0 < port < 65535 else port + 1
            sys.exit(
                f"error: --port={port}: cannot listen on {host}:{port}: {reason(error)}. Type: make ui PORT={free}"
            )


if __name__ == "__main__":
    main()
