"""Whose code a source file is, and how a line of it is written. Does not import torch."""

from __future__ import annotations

import functools
import os
import sysconfig

OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # this package
_PATHS = sysconfig.get_paths()
# the standard library's folder contains site-packages in some installations, and site-packages may contain the user's project
LIBRARIES = tuple(
    sorted({os.path.realpath(_PATHS[name]) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
)
NOT_FILES = "<"  # the first character of the file of frozen and generated code


@functools.lru_cache(maxsize=4096)
def is_installed(path: str) -> bool:
    """Whether a file belongs to the standard library or to an installed package, in contrast to the user's own code."""
    real = os.path.realpath(path)
    return (
        real.startswith(LIBRARIES)
        or f"{os.sep}site-packages{os.sep}" in real
        or f"{os.sep}dist-packages{os.sep}" in real
    )


def short_path(path: str) -> str:
    """The path relative to the working folder if it is inside, otherwise the file's name."""
    path = os.path.abspath(path)
    try:
        relative = os.path.relpath(path)
    except (ValueError, OSError):  # another drive; the working folder was deleted
        relative = os.pardir
    return os.path.basename(path) if relative.startswith(os.pardir) else relative
