"""The record of runs in MLflow. `open_store` is the way in; no other subpackage imports MLflow."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from loaderlab.config import TrackingConfig
from loaderlab.system.user import give_name_and_home

if TYPE_CHECKING:
    from loaderlab.tracking.store import Store

QUIET = {  # MLflow reads these at its import; a user's own values stay
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AUTH_WARNING": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def open_store(config: TrackingConfig, root: Path, *, create: bool = True) -> Store:
    """The store of one experiment. Turns MLflow's telemetry and chatter off in this process, then imports MLflow (1.5 s).

    Args:
        config: where the store is, and the name of the experiment.
        root: the project's folder, for the default store.
        create: make the store and the experiment if they are missing.

    Raises:
        StoreError: it cannot be opened, created or written.
    """
    give_name_and_home()  # MLflow's import raises without
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from loaderlab.tracking.store import Store

    for noisy in ("alembic", "mlflow", "mlflow.store.db.utils"):  # after the import, which sets them to INFO
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return Store(config, root, create=create)
