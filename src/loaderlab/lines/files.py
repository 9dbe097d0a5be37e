"""The files of a profile, for a run's artifacts."""

from __future__ import annotations

import json
from pathlib import Path

from loaderlab.lines.control import Profiled
from loaderlab.lines.tree import NAME as TREE
from loaderlab.lines.tree import tree
from loaderlab.system.files import write_text

SHARES = "slow_lines.json"
NAMES = (SHARES, TREE)


def write_files(folder: Path, profiled: Profiled, title: str) -> None:
    """Writes `SHARES`, and with lines the tree.

    Raises:
        MissingPackage: pyinstrument is not installed.
        OSError: a file cannot be written.
    """
    write_text(folder / SHARES, json.dumps(profiled.as_json(), indent=1) + "\n")
    if profiled.lines is not None:
        write_text(folder / TREE, tree(profiled.recording, title))
