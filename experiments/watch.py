"""Measures how any training script is fed: python -m experiments.watch --help. The same program as ``loaderlab watch``."""

import sys

from loaderlab.cli.watch import start
from loaderlab.system.processes import leave

if __name__ == "__main__":
    leave(start(sys.argv[1:]))
