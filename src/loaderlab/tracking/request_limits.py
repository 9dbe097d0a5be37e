"""Limits of MLflow's requests to a tracking server: MLflow itself repeats a request for minutes if the server does not answer.

MLflow reads them from the environment at each request, and its client has no arguments for them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}  # timeout: seconds without a byte

_lock = threading.Lock()
_set_here: list[str] = []  # names that the user has not set
_depth = 0


@contextmanager
def limited_requests() -> Iterator[None]:
    """Sets the limits during the block, in all threads; values that the user set are kept."""
    global _depth
    with _lock:
        if _depth == 0:
            _set_here[:] = [name for name in LIMITS if name not in os.environ]
            os.environ.update({name: LIMITS[name] for name in _set_here})
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                for name in _set_here:
                    os.environ.pop(name, None)
