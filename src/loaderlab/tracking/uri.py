"""The location of the store, and the command that opens it. Does not import MLflow."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from loaderlab.config import AUTO, TrackingConfig


def store_uri(config: TrackingConfig, root: Path) -> str:
    """The tracking URI that ``tracking.uri`` selects."""
    if config.uri != AUTO:
        return config.uri
    # spaces and letters are not quoted: MLflow would also make a folder with the quoted name
    path = str(root / "mlruns" / "mlflow.db").replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return f"sqlite:///{path}"


def ui_command(uri: str) -> str:
    """The command that shows a store."""
    if uri.startswith("http"):
        return f"open {shlex.quote(uri)}"
    # if no environment is active, mlflow is not on the path, but is next to this Python
    mlflow_command = "mlflow" if shutil.which("mlflow") else os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"{shlex.quote(mlflow_command)} ui --backend-store-uri {shlex.quote(uri)}"
