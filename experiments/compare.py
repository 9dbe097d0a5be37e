"""Compares recorded runs in a table, pictures and a page: python -m experiments.compare --help. The same program as ``loaderlab compare``."""

import sys

from loaderlab.cli.compare import start
from loaderlab.system.processes import leave

if __name__ == "__main__":
    leave(start(sys.argv[1:]))
