"""Whether this process is a template, from which jobs are forked, or was forked from one: see `loaderlab.system.template`.

It imports nothing that only some systems have, because every program with a meter imports it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

SERVER_MODULE = "multiprocessing.forkserver"  # in the command line of a template


def is_template() -> bool:
    """Whether this process is a template."""
    return multiprocessing.parent_process() is None and _comes_from_template()


def was_forked() -> bool:
    """Whether this process was forked from a template."""
    return multiprocessing.parent_process() is not None and _comes_from_template()


def template_pid() -> int | None:
    """The pid of the template that this process was forked from; None if there is none, or if it has ended."""
    if not was_forked():
        return None
    parent = os.getppid()
    try:
        command = Path(f"/proc/{parent}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return parent if SERVER_MODULE in command else None  # otherwise the process that adopts orphans


def _comes_from_template() -> bool:
    return any(SERVER_MODULE in argument for argument in sys.orig_argv)
