"""Versions of the installed packages, the commit of the checkout, and whether this Python has a GIL. Free of torch."""

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
    """Installed versions of the packages that a figure depends on; a package that is not there is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def has_gil() -> bool:
    """Whether this interpreter runs one thread of Python code at a time.

    Calls ``sys._is_gil_enabled``, which Python documents from 3.13 on under this name and has no other for; interpreters
    before always have the lock. Checked with Python 3.11.
    """
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout, with ``-dirty`` where files differ from it; None outside a checkout."""
    head = _git(folder, "rev-parse", "HEAD")
    return None if head is None else head + ("-dirty" if _git(folder, "status", "--porcelain") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it cannot be run, or fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.decode("utf-8", errors="replace").strip()
