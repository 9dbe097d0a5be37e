"""Checks that a generated set fits in memory and on the disk, before anything is generated."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from loaderlab.config import refuse
from loaderlab.data.spec import DataError
from loaderlab.system.machine import available_memory


def check_memory(setting: str, value: Any, contents: str, num_bytes: int, override: str) -> None:
    """Checks that a set of this size fits in the memory that this process may still use.

    Args:
        setting, value: the setting that makes the set too large.
        contents: the subject of the message, such as ``700 samples``.
        override: what to type instead.

    Raises:
        DataError: it does not fit.
    """
    free = available_memory()
    if num_bytes > free:
        allowed = (
            f"{contents} take about {num_bytes / 1e9:,.1f} GB of memory, but {free / 1e9:,.1f} GB are available to "
            "this process"
        )
        raise refuse(setting, value, allowed, override, error=DataError)


def check_disk(setting: str, value: Any, contents: str, num_bytes: int, root: str, override: str) -> None:
    """Checks that a set of this size fits on the disk of ``data.root``, which must exist. See `check_memory`.

    Raises:
        DataError: it does not fit.
    """
    free = shutil.disk_usage(Path(root)).free
    if num_bytes > free:
        allowed = (
            f"{contents} take about {num_bytes / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free under data.root={root}"
        )
        raise refuse(setting, value, allowed, override, error=DataError)
