"""The file system on which a path is."""

from __future__ import annotations

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")


def file_system_of(path: str | os.PathLike[str], mounts: Path = MOUNTS) -> str:
    """The type of the file system with this path: ``ext4``, ``nfs4``; empty if there is no such path, or if it is not known."""
    try:
        real = os.path.realpath(path, strict=True)
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    longest, file_system = "", ""
    for _, mounted_at, kind, *_ in (line.split() for line in lines):
        point = mounted_at.replace("\\040", " ").rstrip("/")
        if len(point) >= len(longest) and (real == point or real.startswith(f"{point}/")):
            longest, file_system = point, kind  # a later mount hides an earlier one
    return file_system
