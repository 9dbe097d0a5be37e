"""Starts the recording process of `loaderlab.attach.sidecar`: detached from the program, with its own environment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SEND_S = 5.0  # for a message to the recording process, which reads all of them at once

# The shell starts the process in the background and ends, so that it is no child of the program. It ignores the signals from
# its first moment. `-P` and `append`: no file of the working folder may hide a module.
SHELL = 'trap "" HUP INT TERM; "$@" &'
PYTHON = "import sys; sys.path.append(sys.argv[2]); from loaderlab.attach.recording import main; main()"
PACKAGES = str(Path(__file__).resolve().parents[2])

DROPPED = ("PYTHONINSPECT", "PYTHONPROFILEIMPORTTIME", "PYTHONVERBOSE", "PYTHONWARNINGS")
ACCESS = (  # the beginnings of MLflow's variables for the access to a server and its artifacts
    "MLFLOW_HTTP_REQUEST_",
    "MLFLOW_S3_",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def launched(log: Path, order: dict[str, object]) -> socket.socket:
    """The connection to a new recording process, whose output goes to ``log``, after it got its order.

    Raises:
        OSError: it cannot be started.
    """
    own, other = socket.socketpair()
    try:
        with other, log.open("ab") as output:
            python = [sys.executable, "-P", "-c", PYTHON, str(other.fileno()), PACKAGES]
            shell = subprocess.Popen(
                ["/bin/sh", "-c", SHELL, "sh", *python],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(other.fileno(),),
                start_new_session=True,  # the signals of a terminal do not reach it
                env=environment(os.environ),
            )
            shell.wait()
        own.settimeout(SEND_S)
        send(own, order)
    except OSError:
        own.close()
        raise
    return own


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of the recording process: without what selects a run or a store of MLflow for the program."""
    kept = {
        name: value
        for name, value in own.items()
        if name not in DROPPED and (not name.startswith("MLFLOW_") or name.startswith(ACCESS))
    }
    return kept | ONE_THREAD


def send(connection: socket.socket, message: dict[str, object]) -> None:
    """Sends a message as a line of JSON.

    Raises:
        OSError: the recording process has ended.
    """
    no_signal = getattr(socket, "MSG_NOSIGNAL", 0)  # a program may have restored the default action of SIGPIPE
    connection.sendall(json.dumps(message).encode() + b"\n", no_signal)
