"""A PostgreSQL cluster of its own for a test: in a temporary folder, on a free port, removed at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.running_server import free_port

USER = "loaderlab"
DEBIAN = Path("/usr/lib/postgresql")  # it puts the newest version's programs nowhere on the path


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    if _program("postgres") is None or _program("initdb") is None:
        return "no PostgreSQL on this machine: apt-get install postgresql"
    return "" if find_spec("psycopg") else "no driver for PostgreSQL: pip install 'loaderlab[server]'"


@contextmanager
def cluster() -> Iterator[str]:
    """The URI of an empty database."""
    folder, port = Path(tempfile.mkdtemp(prefix="loaderlab-postgres-")), free_port()
    owner: dict[str, str] = {}
    if os.geteuid() == 0:  # it does not run as root
        owner = {"user": "nobody"}
        shutil.chown(folder, "nobody")
    data = folder / "data"
    initdb = [str(_program("initdb")), "-D", str(data), "-A", "trust", "-U", USER, "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **owner)  # type: ignore[call-overload]
    command = [str(_program("postgres")), "-D", str(data), "-k", str(folder), "-p", str(port)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(  # type: ignore[call-overload]
            [*command, "-c", "listen_addresses=127.0.0.1"], stdout=log, stderr=log, cwd=folder, **owner
        )
    try:
        _wait(server, port, folder)
        yield f"postgresql://{USER}:secret@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # it ends its connections
        server.wait(30)
        shutil.rmtree(folder)


def _wait(server: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user=USER, dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)


def _program(name: str) -> str | None:
    versions = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3])) if DEBIAN.is_dir() else []
    return shutil.which(name) or next((str(path) for path in reversed(versions)), None)
