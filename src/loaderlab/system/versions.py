"""Versions of the installed packages, the commit of the checkout, and whether this Python has a GIL. Does not import torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch",
    "torchvision",
    "torchcodec",
    "nvidia-dali-cuda120",
    "spdl",
    "timm",
    "numpy",
    "pillow",
    "mlflow",
    "hydra-core",
)


def versions() -> dict[str, str]:
    """Versions of the packages that may affect results. Packages that are not installed are left out."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def has_gil() -> bool:
    """Whether this interpreter runs only one thread of Python code at a time.

    Calls ``sys._is_gil_enabled``, which Python documents under this name from 3.13 on. Older interpreters always have the lock.
    Checked with Python 3.11.
    """
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout, with ``-dirty`` if files differ from it; None outside a checkout."""
    head = _git(folder, "rev-parse", "HEAD")
    return None if head is None else head + ("-dirty" if _git(folder, "status", "--porcelain") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git; None if it cannot be run or fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.decode("utf-8", errors="replace").strip()
