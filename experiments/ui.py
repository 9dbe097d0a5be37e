"""Starts the MLflow UI with the store of this checkout: python -m experiments.ui --help. The same program as ``loaderlab ui``."""

import sys

from loaderlab.cli.ui import start
from loaderlab.system.processes import leave

if __name__ == "__main__":
    leave(start(sys.argv[1:]))
