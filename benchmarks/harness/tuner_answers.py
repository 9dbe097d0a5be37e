"""Runs ``loaderlab tune`` on planted cases and on its default case, and keeps its answers in a file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.tuner_cases import TunerCase
from benchmarks.harness.watched_packages import environment
from loaderlab.config import PROJECT

DEFAULT = "default"  # the case of the command without arguments
ARTIFACT = "tune*.json"  # a run on an emulated accelerator has a file with another name
LIMIT_S = 180.0  # of the default case, confirmation included


@dataclass(frozen=True)
class Tuned:
    """One search.

    Attributes:
        answer: the content of its file ``tune.json``, or ``tune_emulated.json``.
        wall_s: of the whole command.
    """

    case: str
    repeat: int
    wall_s: float
    answer: Mapping[str, Any]

    @property
    def times(self) -> str:
        """Whole command, search, confirmation and process starts."""
        answer = self.answer
        parts = f"search {answer['search_s']:.0f}, confirmation {answer['confirm_s']:.0f}"
        return f"{self.wall_s:.0f} s ({parts}, process starts in both {answer['starts_s']:.0f})"


def tune(case: TunerCase, repeat: int, minutes: float) -> Tuned:
    """Tunes a planted case."""
    return _tune(case.name, repeat, [*case.tuned(minutes), f"seed={repeat}"])


def tune_default(repeat: int) -> Tuned:
    """Tunes the default case, with its own store."""
    return _tune(DEFAULT, repeat, [])


def _tune(name: str, repeat: int, overrides: Sequence[str]) -> Tuned:
    """Raises:
    SystemExit: the command failed.
    """
    with tempfile.TemporaryDirectory(prefix="tuner_") as folder:
        command = [sys.executable, "-m", "experiments.tune", *overrides, f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=PROJECT, env=environment(), capture_output=True, encoding="utf-8")
        wall_s = time.perf_counter() - began
        answers = sorted(Path(folder).rglob(ARTIFACT))
        if done.returncode or not answers:
            raise SystemExit(f"error: {name}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return Tuned(name, repeat, wall_s, json.loads(answers[0].read_text(encoding="utf-8")))
