"""Where the store is, and the command that opens it. Free of MLflow."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from loaderlab.config import AUTO, TrackingConfig


def store_uri(config: TrackingConfig, root: Path) -> str:
    """The tracking URI that ``tracking.uri`` stands for."""
    if config.uri != AUTO:
        return config.uri
    # spaces and letters stay as they are: MLflow makes a folder of the quoted name beside the one that is meant
    path = str(root / "mlruns" / "mlflow.db").replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return f"sqlite:///{path}"


def ui_command(uri: str) -> str:
    """What to type to look at a store."""
    if uri.startswith("http"):
        return f"open {shlex.quote(uri)}"
    # without an activated environment mlflow is not on the path: name it beside this Python
    mlflow_command = "mlflow" if shutil.which("mlflow") else os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"{shlex.quote(mlflow_command)} ui --backend-store-uri {shlex.quote(uri)}"
