"""The location of the store, and the command that opens it. Does not import MLflow."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from loaderlab.config import AUTO, TrackingConfig


def store_uri(config: TrackingConfig, root: Path) -> str:
    """The tracking URI that ``tracking.uri`` selects."""
    if config.uri != AUTO:
        return config.uri
    return sqlite_uri(root / "mlruns" / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """The URI of an SQLite store."""
    # spaces and letters are not quoted: MLflow would also make a folder with the quoted name
    path = str(file).replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return f"sqlite:///{path}"


PASSWORD = re.compile(r"(\w[\w+.-]*://[^\s:/@]*:)[^\s/]*(?=@)")  # in a URI; up to the last @ before a slash


def without_password(text: str) -> str:
    """The text with ``***`` instead of the password of each URI in it.

    >>> without_password("postgresql://ann:secret@db:5432/runs")
    'postgresql://ann:***@db:5432/runs'
    """
    return PASSWORD.sub(r"\1***", text)


def ui_command(uri: str) -> str:
    """The command that shows a store, with ``***`` instead of a password."""
    uri = without_password(uri)
    if uri.startswith("http"):
        return f"open {shlex.quote(uri)}"
    # if no environment is active, mlflow is not on the path, but is next to this Python
    mlflow_command = "mlflow" if shutil.which("mlflow") else os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"{shlex.quote(mlflow_command)} ui --backend-store-uri {shlex.quote(uri)}"
