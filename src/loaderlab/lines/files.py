"""The files of a profile, for a run's artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from loaderlab.lines.control import Profiled
from loaderlab.lines.tree import NAME as TREE
from loaderlab.lines.tree import tree
from loaderlab.system.files import write_text

SHARES = "slow_lines.json"
NAMES = (SHARES, TREE)


def write_files(folder: Path, profiled: Profiled, title: str, named: Callable[[str], str] = str) -> None:
    """Writes `SHARES`, and with lines the tree.

    Args:
        named: the name of a file in this folder.

    Raises:
        MissingPackage: pyinstrument is not installed.
        OSError: a file cannot be written.
    """
    write_text(folder / named(SHARES), json.dumps(profiled.as_json(), indent=1) + "\n")
    if profiled.lines is not None:
        write_text(folder / named(TREE), tree(profiled.recording, title))
