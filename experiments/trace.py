"""Starvation read from any trace of PyTorch's profiler: python -m experiments.trace --help."""

import sys

from loaderlab.cli.main import main
from loaderlab.config import TraceConfig
from loaderlab.system.processes import leave


def job(config: TraceConfig, _overrides: list[str]) -> None:
    """Reads one trace."""
    from loaderlab.system.terminal import Terminal
    from loaderlab.trace.read import report  # imports numpy and scipy: not for --help

    report(config, Terminal())


if __name__ == "__main__":
    leave(main("trace", TraceConfig, job, sys.argv[1:]))
