"""A server in its own process, for the duration of a test."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The server's address, after it answers.

    Args:
        command: starts the server; ``--port`` is appended.
        environment: added to this process's environment.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=cwd,
        env=os.environ | dict(environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < deadline
                time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        server.wait(30)
