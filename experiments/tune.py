"""Finds the cheapest settings of a loader that keep the device fed: python -m experiments.tune --help. The same program as ``loaderlab tune``."""

import sys

from loaderlab.cli.tune import start
from loaderlab.system.processes import leave

if __name__ == "__main__":
    leave(start(sys.argv[1:]))
