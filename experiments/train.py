"""Measures and records one training run; with ``-m`` a sweep of runs: python -m experiments.train --help. The same program as ``loaderlab train``."""

import sys

from loaderlab.cli.train import start
from loaderlab.system.processes import leave

if __name__ == "__main__":
    leave(start(sys.argv[1:]))
