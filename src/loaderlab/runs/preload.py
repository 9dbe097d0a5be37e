"""The module that a template process imports: it imports what every run imports before its first step.

Packages of one loader, of one model, and of pictures are left out. Nothing here may query CUDA or NVML, because a process that
is forked afterwards could not use CUDA, and no thread may be left that cannot be forked (tests/runs/test_preload.py).
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Sequence

from loaderlab import tracking
from loaderlab.system.causes import described
from loaderlab.system.forked import is_template
from loaderlab.system.processes import importing
from loaderlab.system.streams import lost
from loaderlab.system.template import prepare_template

MODULES = (
    "loaderlab.runs.run",
    "loaderlab.system.terminal",
    *tracking.IMPORTED,
    "torch._dynamo",  # the first optimizer imports it
)


def load(modules: Sequence[str] = MODULES) -> list[str]:
    """Imports the modules. Returns a line for each one that could not be imported."""
    tracking.quieten_mlflow()
    failures = []
    with importing():
        for module in modules:
            try:
                importlib.import_module(module)
            except (Exception, SystemExit) as error:
                failures.append(f"{module}: {described(error)}")
    gc.collect()  # otherwise every forked process would do it, in 0.4 s, as soon as it has made a few objects
    lost()  # otherwise every forked process would print again what is in the buffers
    sys.stderr.flush()
    return failures


FAILURES: list[str] = []
if is_template():
    prepare_template()
    FAILURES += load()
