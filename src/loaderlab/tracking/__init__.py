"""The record of runs in MLflow. Other subpackages start with `open_store` and do not import MLflow."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from loaderlab.config import TrackingConfig
from loaderlab.system.user import give_name_and_home

if TYPE_CHECKING:
    from loaderlab.tracking.store import Store

QUIET = {  # MLflow reads these when it is imported; values that the user set are kept
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AUTH_WARNING": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines on each run that ends on a server; `Store.ui_text` is ours
}

IMPORTED = (
    "loaderlab.tracking.store",
    "mlflow.store.tracking.sqlalchemy_store",
)  # by a run that records into a database


def quieten_mlflow() -> None:
    """Turns off MLflow's telemetry and messages in this process. Call it before MLflow is imported."""
    give_name_and_home()  # importing MLflow fails without them
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def open_store(config: TrackingConfig, root: Path, *, create: bool = True, wait_s: float = 0.0) -> Store:
    """The store of one experiment. Turns off MLflow's telemetry and messages in this process, then imports MLflow (1.5 s).

    Args:
        config: the location of the store, and the name of the experiment.
        root: the project's folder, for the default store.
        create: create the store and the experiment if they are missing.
        wait_s: how long to wait for a tracking server that does not answer.

    Raises:
        StoreError: the store cannot be opened, created or written.
    """
    quieten_mlflow()
    from loaderlab.tracking.store import Store

    for noisy in ("alembic", "mlflow", "mlflow.store.db.utils"):  # after the import, which sets them to INFO
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return Store(config, root, create=create, wait_s=wait_s)
