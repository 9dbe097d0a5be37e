"""The name of a command as the user typed it: ``loaderlab train`` or ``python -m experiments.train``."""

from __future__ import annotations

import sys
from pathlib import PurePath

from loaderlab.config import INSTALLED


def command(name: str) -> str:
    """How to type a command (train, tune, compare, trace, ui, server, sync, doctor), for messages that suggest one.

    A process that `multiprocessing` starts has the ``sys.argv`` of the process that started it.
    """
    return prefix(sys.argv[0] if sys.argv else "", installed=INSTALLED) + name


def prefix(program: str, *, installed: bool) -> str:
    """What stands before the name of a command.

    Args:
        program: ``sys.argv[0]``.
        installed: whether the package is installed from a wheel; decides if another program is running, as with `watch`.
    """
    path = PurePath(program)
    if (path.parent.name, path.name) == ("loaderlab", "__main__.py"):
        return "python -m loaderlab "
    if path.name == "loaderlab":
        return "loaderlab "
    if path.parent.name == "experiments":
        return "python -m experiments."
    return "loaderlab " if installed else "python -m experiments."
