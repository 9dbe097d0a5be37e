"""Where the store is, and the command that opens it. Free of MLflow."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from loaderlab.config import AUTO, TrackingConfig


def store_uri(config: TrackingConfig, root: Path) -> str:
    """The tracking URI that ``tracking.uri`` stands for."""
    return f"sqlite:///{root / 'mlruns' / 'mlflow.db'}" if config.uri == AUTO else config.uri


def ui_command(uri: str) -> str:
    """What to type to look at a store."""
    if uri.startswith("http"):
        return f"open {uri}"
    # without an activated environment mlflow is not on the path: name it beside this Python
    mlflow_command = "mlflow" if shutil.which("mlflow") else os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"{mlflow_command} ui --backend-store-uri {uri}"
