"""Plain runs of a planted case with fixed settings, each in a fresh process, and a file that keeps their results."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.special import stdtrit

from benchmarks.harness.json_lines import append, read
from benchmarks.harness.tuner_cases import CORES, STEP_MS, TunerCase
from benchmarks.harness.watched_packages import environment
from loaderlab import metrics
from loaderlab.config import PROJECT, TrackingConfig
from loaderlab.tracking import open_store
from loaderlab.tracking.records import RunRecord

MEASURED_S = 3.0  # as in the tuner's confirmation
LOOKAHEAD = 6 * 8  # steps of the warm-up of the largest queue
Setting = tuple[int, int]  # workers; batches that each prepares ahead, 0 without workers


@dataclass(frozen=True)
class PlainRun:
    """One run. Rates are samples/s.

    Attributes:
        makers, prefetch: the settings.
        starved_pct: share of the measured window in which the device waited for data.
        cpu_ms: CPU time of all processes per sample.
        host_mib: memory of all processes, at its peak.
    """

    case: str
    makers: int
    prefetch: int
    repeat: int
    rate: float
    starved_pct: float
    cpu_ms: float
    host_mib: float

    @property
    def setting(self) -> Setting:
        return self.makers, self.prefetch


@dataclass(frozen=True)
class Mean:
    """The mean over runs and its 95 % interval (Student's t); None with fewer than two runs."""

    value: float
    interval: tuple[float, float] | None
    num_runs: int

    def __str__(self) -> str:
        ends = "" if self.interval is None else f" ({self.interval[0]:.1f} to {self.interval[1]:.1f})"
        return f"{self.value:.1f}{ends}"


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of at least one value."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Mean(mean, None, count)
    half = float(stdtrit(count - 1, 0.975)) * statistics.stdev(values) / math.sqrt(count)
    return Mean(mean, (mean - half, mean + half), count)


def starved_of(runs: Iterable[PlainRun]) -> Mean:
    """The starved share over runs of the same settings."""
    return mean_of([run.starved_pct for run in runs])


def by_setting(runs: Iterable[PlainRun]) -> dict[Setting, list[PlainRun]]:
    """The runs of each setting, the cheapest first."""
    groups: dict[Setting, list[PlainRun]] = {}
    for run in sorted(runs, key=lambda run: run.setting):
        groups.setdefault(run.setting, []).append(run)
    return groups


def measured(case: TunerCase, settings: Sequence[Setting], repeat: int, path: Path) -> Iterator[PlainRun]:
    """Runs the settings that the file does not have yet for this repeat, and appends the results.

    Raises:
        SystemExit: a run failed.
    """
    known = {run.setting for run in read(path, PlainRun) if (run.case, run.repeat) == (case.name, repeat)}
    for makers, prefetches in sweeps([setting for setting in settings if setting not in known]):
        for run in _sweep(case, makers, prefetches, repeat):
            append(path, run)
            yield run


def sweeps(settings: Sequence[Setting]) -> list[tuple[list[int], list[int]]]:
    """The settings as products of workers and prefetch, with as few products as needed."""
    prefetches: dict[int, list[int]] = {}
    for makers, prefetch in sorted(settings):
        prefetches.setdefault(makers, []).append(prefetch)
    products: dict[tuple[int, ...], list[int]] = {}
    for makers, values in prefetches.items():
        products.setdefault(tuple(values), []).append(makers)
    return [(makers, list(values)) for values, makers in products.items()]


def _sweep(case: TunerCase, makers: Sequence[int], prefetches: Sequence[int], repeat: int) -> list[PlainRun]:
    queued = ",".join(map(str, prefetches)) if any(prefetches) else "auto"
    with tempfile.TemporaryDirectory(prefix="tuner_") as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        command = [
            *(sys.executable, "-m", "experiments.train"),
            *(["-m"] if len(makers) * len(prefetches) > 1 else []),  # a sweep of one job is refused
            *case.overrides(),
            f"loader.num_workers={','.join(map(str, makers))}",
            f"loader.prefetch_factor={queued}",
            f"repeat={repeat}",
            f"steps={round(1e3 * MEASURED_S / STEP_MS) + LOOKAHEAD}",
            "measure=bare",
            "sweep.parity=false",  # the arms differ only in workers and prefetch
            f"tracking.uri={uri}",
        ]
        done = subprocess.run(command, cwd=PROJECT, env=environment(), capture_output=True, encoding="utf-8")
        if done.returncode:
            raise SystemExit(f"error: {case.name}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        runs = open_store(TrackingConfig(uri=uri), Path(folder)).runs()
    return sorted((_plain(case.name, run) for run in runs if metrics.RATE in run.figures), key=lambda run: run.setting)


def _plain(case: str, run: RunRecord) -> PlainRun:
    figures, makers = run.figures, int(run.settings["loader.num_workers"])
    prefetch = int(run.settings["loader.prefetch_factor"]) if makers else 0
    cpu_ms = 10 * CORES * figures[metrics.CPU_PCT] / figures[metrics.RATE]
    return PlainRun(
        case,
        makers,
        prefetch,
        int(run.settings["repeat"]),
        figures[metrics.RATE],
        figures[metrics.STARVED_PCT],
        cpu_ms,
        figures[metrics.HOST_PEAK_MIB],
    )


def restrict_cores() -> None:
    """Restricts this process and the processes that it starts to the number of cores that the cases are for.

    Raises:
        SystemExit: there are fewer.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < CORES:
        raise SystemExit(f"error: the planted cases need {CORES} cores, and this process may use {len(usable)}")
    os.sched_setaffinity(0, usable[:CORES])
