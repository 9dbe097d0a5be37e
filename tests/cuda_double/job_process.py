"""Puts the double into the process of a sweep's job, which starts fresh and inherits nothing but the environment.

Python imports a module called sitecustomize from PYTHONPATH when it starts: see `in_jobs`.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from loaderlab.config import PROJECT
from loaderlab.device.timeline import RealClock
from tests.cuda_double.double import Double
from tests.cuda_double.failing import failure
from tests.cuda_double.patches import installed

PLAN = "CUDA_DOUBLE_PLAN"  # the file with the failure of each process that is still to start
SITE = f"""
import sys
if "--multiprocessing-fork" in sys.orig_argv:
    from {__name__} import install
    install()
"""
_kept = ExitStack()  # until the process ends, which it does with os._exit


def in_jobs(patch: pytest.MonkeyPatch, folder: Path, failures: list[tuple[str, int] | None]) -> None:
    """The next processes that `multiprocessing` spawns run on the double, each with its failure: its kind and its call."""
    (folder / "sitecustomize.py").write_text(SITE)
    plan = folder / "plan.json"
    plan.write_text(json.dumps(failures))
    patch.setenv(PLAN, str(plan))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(PROJECT), str(PROJECT / "src")]))


def install() -> None:
    """Puts the double into this process, with the next failure of the plan."""
    plan = Path(os.environ[PLAN])
    planted, *rest = json.loads(plan.read_text())
    plan.write_text(json.dumps(rest))
    double = Double(RealClock())
    double.failure = None if planted is None else failure(*planted)
    _kept.enter_context(installed(double))
