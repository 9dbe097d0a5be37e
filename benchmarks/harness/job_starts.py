"""The jobs of `benchmarks.job_start`, and the statistics of their start times and rates."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.harness.overhead_loops import median_and_interval
from loaderlab import metrics
from loaderlab.cli.compose import compose, typed
from loaderlab.cli.schemas import register
from loaderlab.config import PROJECT, SPAWN, TEMPLATE, TrainConfig
from loaderlab.runs.job import Job
from loaderlab.runs.job_start import JobStarter
from loaderlab.runs.launch import launch
from loaderlab.tracking import open_store
from loaderlab.tracking.store import STARTED_TAG

METHODS = (SPAWN, TEMPLATE)
NUM_RESAMPLES = 4000
Round = dict[str, list[dict[str, float]]]  # method to its two jobs


class JobTimer:
    """Runs the same short job again and again, and measures it."""

    def __init__(self, steps: int, folder: Path) -> None:
        register()
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        overrides = ["model=feedforward", "measure=bare", "evaluate=false", "loader.num_workers=0", "device=cpu"]
        self._config = typed(compose("train", [*overrides, f"steps={steps}", f"tracking.uri={uri}"]), TrainConfig)
        self._store = open_store(self._config.tracking, PROJECT)
        self._parent = self._store.start("job start", None, {})
        self._starter = JobStarter(self._warn)

    def _warn(self, text: str) -> None:
        raise RuntimeError(text)

    def renew(self) -> None:
        """Ends the template."""
        self._starter.renew()

    def run(self, method: str) -> dict[str, float]:
        """Seconds from the launch to the first step and to the end of the job, and its samples per second."""
        launched = time.clock_gettime(time.CLOCK_BOOTTIME)
        with _silent():
            result = launch(self._config, Job("a job", "a job", self._parent.run_id), self._starter, method)
        ended = time.clock_gettime(time.CLOCK_BOOTTIME)
        if result.status != "FINISHED":
            raise RuntimeError(f"a job did not finish: {result.error}")
        tags = next(run.tags for run in self._store.runs() if run.run_id == result.run_id)
        started = int(tags[STARTED_TAG].rpartition("-")[2]) / os.sysconf("SC_CLK_TCK")
        figures = result.figures
        return {
            "first_step_s": started - launched + figures[metrics.STARTUP_S] + figures[metrics.FIRST_BATCH_S],
            "total_s": ended - launched,
            "rate": figures[metrics.RATE],
            "host_mib": figures[metrics.HOST_PEAK_MIB],
        }


@contextmanager
def _silent() -> Iterator[None]:
    """Jobs that start meanwhile print nothing."""
    sys.stdout.flush()
    output = os.dup(1)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(output, 1)
        os.close(output)


def taken_round(timer: JobTimer, *, template_first: bool) -> Round:
    """Two jobs of each method, in turns. The first job of the template waits until the template has imported its modules."""
    taken: Round = {method: [] for method in METHODS}
    timer.renew()
    order = (TEMPLATE, SPAWN) if template_first else (SPAWN, TEMPLATE)
    for method in order * 2:
        taken[method].append(timer.run(method))
    timer.renew()
    return taken


def summary(rounds: Sequence[Round]) -> list[str]:
    """The lines that compare the two methods."""
    spawned = [entry[SPAWN] for entry in rounds]
    forked = [entry[TEMPLATE] for entry in rounds]
    lines = [f"n = {len(rounds)} rounds"]
    for key, text in (("first_step_s", "from launch to first step"), ("total_s", "whole job")):
        spawn_s = [(one[key] + two[key]) / 2 for one, two in spawned]
        lines.append(f"{text}: spawn {_text(spawn_s, 's')}")
        for index, label in ((1, "template"), (0, "template, first job, with the template's own start")):
            values = [jobs[index][key] for jobs in forked]
            ratios = [value / other for value, other in zip(values, spawn_s, strict=True)]
            lines.append(f"  {label}: {_text(values, 's')}; / spawn: {_text(ratios, '')}")
    for method, jobs in ((SPAWN, spawned), (TEMPLATE, forked)):
        lines.append(f"{method}: {_text([two['rate'] for _, two in jobs], 'samples/s')}")
        lines.append(f"  host memory {_text([two['host_mib'] for _, two in jobs], 'MiB')}")
    lines += _spreads(rounds)
    return lines


def _spreads(rounds: Sequence[Round]) -> list[str]:
    """The spread of the rates over rounds and within rounds, as the ratio template / spawn."""
    logs = {method: np.log([[job["rate"] for job in entry[method]] for entry in rounds]) for method in METHODS}
    rows = np.random.default_rng(0).integers(0, len(rounds), (NUM_RESAMPLES, len(rounds)))
    lines = []
    for text, spread in (("over rounds", _over_rounds), ("within rounds", _within_rounds)):
        percent = {method: 100 * spread(logs[method]) for method in METHODS}
        ratios = [spread(logs[TEMPLATE][chosen]) / max(spread(logs[SPAWN][chosen]), 1e-9) for chosen in rows]
        low, high = np.percentile(ratios, [2.5, 97.5])
        lines.append(
            f"A/A spread {text} (standard deviation): spawn {percent[SPAWN]:.2f} %, template {percent[TEMPLATE]:.2f} %; "
            f"template / spawn {percent[TEMPLATE] / max(percent[SPAWN], 1e-9):.2f} (95 % CI {low:.2f} to {high:.2f})"
        )
    return lines


def _over_rounds(logs: np.ndarray) -> float:
    """The standard deviation over the repeats of an arm: the mean variance of the first and the second jobs."""
    return float(math.sqrt(np.var(logs, axis=0, ddof=1).mean()))


def _within_rounds(logs: np.ndarray) -> float:
    """The standard deviation between two jobs of the same round."""
    return float(math.sqrt(np.mean((logs[:, 0] - logs[:, 1]) ** 2) / 2))


def _text(values: list[float], unit: str) -> str:
    median, low, high = median_and_interval(values)
    digits = 0 if median >= 100 else 2
    return f"{median:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f}) {unit}".rstrip()
