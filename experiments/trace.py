"""Measures starvation in any trace of PyTorch's profiler: python -m experiments.trace --help. The same program as ``loaderlab trace``."""

import sys

from loaderlab.cli.trace import start
from loaderlab.system.processes import leave

if __name__ == "__main__":
    leave(start(sys.argv[1:]))
