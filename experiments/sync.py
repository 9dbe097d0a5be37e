"""Sends what runs could not send to their tracking server: python -m experiments.sync --help. The same program as ``loaderlab sync``."""

import sys

from loaderlab.cli.sync import start
from loaderlab.system.processes import leave

if __name__ == "__main__":
    leave(start(sys.argv[1:]))
