"""Recorded runs side by side, as a table, pictures and a page: python -m experiments.compare --help."""

import sys

from loaderlab.cli.main import main
from loaderlab.config import CompareConfig
from loaderlab.system.processes import leave


def job(config: CompareConfig, _overrides: list[str]) -> None:
    """Reads the store, prints the comparison, writes it where a folder is given."""
    from loaderlab.runs.compare_runs import run_compare
    from loaderlab.system.terminal import Terminal

    run_compare(config, Terminal())


if __name__ == "__main__":
    leave(main("compare", CompareConfig, job, sys.argv[1:]))
