"""Where in the source a loader was created. Does not import torch."""

from __future__ import annotations

import os
import sys
from types import FrameType

from loaderlab.system.source_places import NOT_FILES, OWN, is_installed, short_path

RUNS_SCRIPTS = os.path.join(OWN, "attach", "script.py")


def call_stack() -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The stack of the calling thread, the innermost frame first, from the script on; without this package's frames.

    Returns:
        ``file:line function`` of each frame; and the offset of each frame's instruction, which distinguishes two calls in one line.
    """
    frame: FrameType | None = sys._getframe(1)
    entries, offsets = [], []
    while frame is not None:
        code = frame.f_code
        if code.co_filename == RUNS_SCRIPTS:
            break
        if not code.co_filename.startswith(OWN):
            entries.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
            offsets.append(frame.f_lasti)
        frame = frame.f_back
    return tuple(entries), tuple(offsets)


def user_lines(stack: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of a stack that belong to the user's code, the innermost first; the outermost line of installed code if there
    are no others.

    Examples:
        >>> user_lines(("/nowhere/train.py:13 make_loader", "/nowhere/train.py:41 <module>"))
        ('train.py:13', 'train.py:41')
    """
    places = [entry.rpartition(" ")[0] for entry in stack]
    files = [place for place in places if not place.startswith(NOT_FILES)]
    own = [place for place in files if not _is_installed(place)]
    return tuple(_short(place) for place in own or files[-1:])


def _is_installed(place: str) -> bool:
    return is_installed(place.rpartition(":")[0])


def _short(place: str) -> str:
    path, _, line = place.rpartition(":")
    return f"{short_path(path)}:{line}"
