"""``loaderlab compare``: compares recorded runs in a table, pictures and a page."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab.cli.composed import composed
from loaderlab.config import CompareConfig


def job(config: CompareConfig, _overrides: list[str]) -> None:
    """Reads the store, prints the comparison, and writes it to the output folder if there is one."""
    from loaderlab.runs.compare_runs import run_compare
    from loaderlab.system.terminal import Terminal

    run_compare(config, Terminal())


def start(arguments: Sequence[str]) -> int:
    """The exit code, after running the command."""
    return composed("compare", CompareConfig, job, arguments)
