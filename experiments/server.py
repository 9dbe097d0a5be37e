"""Starts a tracking server for several machines: python -m experiments.server --help. The same program as ``loaderlab server``."""

import sys

from loaderlab.cli.server import start
from loaderlab.system.processes import leave

if __name__ == "__main__":
    leave(start(sys.argv[1:]))
