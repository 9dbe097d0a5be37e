"""The files of a run's slow lines: all figures, the tree of all functions, and a table in MLflow's own form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from loaderlab.lines.control import Profiled
from loaderlab.lines.tree import NAME as TREE
from loaderlab.lines.tree import tree
from loaderlab.report.line_table import mlflow_table
from loaderlab.system.files import write_text

SHARES, TABLE = "slow_lines.json", "slow_lines_table.json"
LOGGED_TABLES = "mlflow.loggedArtifacts"  # MLflow's own tag: the tables that its pages show


def write_lines(folder: Path, slow: Profiled, title: str, named: Callable[[str], str] = str) -> dict[str, str]:
    """Writes `SHARES`, and with lines the tree and the table; returns the tags of the run that MLflow needs to show the table.

    Args:
        named: the name of a file in this folder.

    Raises:
        MissingPackage: pyinstrument is not installed.
        OSError: a file cannot be written.
    """
    write_text(folder / named(SHARES), json.dumps(slow.as_json(), indent=1) + "\n")
    if slow.lines is None:
        return {}
    write_text(folder / named(TREE), tree(slow.recording, title))
    write_text(folder / named(TABLE), json.dumps(mlflow_table(slow.lines)) + "\n")
    return {LOGGED_TABLES: json.dumps([{"path": named(TABLE), "type": "table"}])}
