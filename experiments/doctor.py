"""Checks whether a long run would fail on this machine: python -m experiments.doctor --help. The same program as ``loaderlab doctor``."""

import sys

from loaderlab.cli.doctor import start
from loaderlab.system.processes import leave

if __name__ == "__main__":
    leave(start(sys.argv[1:]))
