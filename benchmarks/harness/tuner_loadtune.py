"""Runs loadtune on a planted case. It is installed into a folder of its own on the first run."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.tuner_cases import TunerCase
from benchmarks.harness.tuner_rivals import loadtune_choice
from benchmarks.harness.tuner_runs import Setting
from benchmarks.harness.watched_packages import environment, python_with
from loaderlab.config import PROJECT

PACKAGES = ("loadtune==0.3.0",)
WORKLOAD = PROJECT / "benchmarks" / "watched" / "loadtune_workload.py"
STEPS = 100  # its default


@dataclass(frozen=True)
class LoadtuneRun:
    """One search of loadtune."""

    case: str
    repeat: int
    seconds: float
    makers: int
    prefetch: int

    @property
    def setting(self) -> Setting:
        return self.makers, self.prefetch


def run(case: TunerCase, repeat: int, packages: Path) -> LoadtuneRun:
    """Tunes a case with loadtune's defaults, from the case's current number of workers.

    Raises:
        SystemExit: it failed.
    """
    python = python_with(packages / "loadtune", PACKAGES)
    with tempfile.TemporaryDirectory(prefix="tuner_") as folder:
        raw = Path(folder) / "raw.json"
        command = [
            *(
                str(python),
                "-m",
                "loadtune.cli",
                "tune",
                str(WORKLOAD),
                f"--workers={case.current}",
                f"--steps={STEPS}",
            ),
            *("--no-plots", f"--out={folder}/report.md", f"--save-raw={raw}"),
        ]
        began = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment() | {"LOADERLAB_TUNER_CASE": case.name},
            capture_output=True,
            encoding="utf-8",
        )
        seconds = time.perf_counter() - began
        if done.returncode or not raw.exists():
            raise SystemExit(f"error: loadtune, {case.name}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        makers, prefetch = loadtune_choice(json.loads(raw.read_text(encoding="utf-8")))
    return LoadtuneRun(case.name, repeat, seconds, makers, prefetch)
