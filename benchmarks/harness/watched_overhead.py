"""What `loaderlab watch` costs: per step, and per command."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.harness.watched_packages import ROOT, Pythons, environment

SCRIPT = ROOT / "benchmarks" / "watched" / "plain_loop.py"
ARGUMENTS = ("--steps=100", "--sample-ms=2", "--step-ms=20")
BARE, WATCH, RECORD, TRACEML = ARMS = ("python", "loaderlab watch", "loaderlab watch --record", "traceml run")


@dataclass(frozen=True)
class Interval:
    """The mean of values, and its 95 % confidence interval by Student's t."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, form: str) -> str:
        return f"{self.mean:{form}} (95 % CI {self.low:{form}} to {self.high:{form}}, n = {self.n})"


def interval(values: Sequence[float]) -> Interval:
    """The mean of at least two independent values, with its interval."""
    from scipy.stats import t

    mean, n = statistics.fmean(values), len(values)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n) if n > 1 else math.nan
    return Interval(mean, mean - half, mean + half, n)


# ---- a step --------------------------------------------------------------------------------------------------------------


def coin_process(steps: int, seed: int, *, rows: bool, ddp: bool = False) -> dict[str, float]:
    """The summary of one process of `benchmarks.harness.watched_coin`."""
    command = [sys.executable, "-m", "benchmarks.harness.watched_coin", f"--steps={steps}", f"--seed={seed}"]
    done = subprocess.run(
        [*command, *["--rows"] * rows, *["--ddp"] * ddp],
        cwd=ROOT,
        env=environment(),
        check=True,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    summary: dict[str, float] = json.loads(done.stdout)
    return summary


def step_lines(processes: Sequence[dict[str, float]]) -> list[str]:
    """The cost of a step over several processes."""
    means = interval([100 * (entry["on_ms"] / entry["off_ms"] - 1) for entry in processes])
    medians = interval([100 * (entry["on_median_ms"] / entry["off_median_ms"] - 1) for entry in processes])
    added_us = interval([1e3 * (entry["on_ms"] - entry["off_ms"]) for entry in processes])
    step_ms = statistics.median(entry["off_ms"] for entry in processes)
    return [
        f"a step takes {step_ms:.2f} ms; {statistics.median(entry['left_out'] for entry in processes):.0f} steps per process were left out",
        f"recorded against not recorded, means: {means.text('+.2f')} %, which is {added_us.text('+.1f')} us",
        f"recorded against not recorded, medians: {medians.text('+.2f')} %",
    ]


# ---- a command -----------------------------------------------------------------------------------------------------------


def arm_seconds(arm: str, pythons: Pythons) -> float:
    """Seconds that the script takes in one of the arms, from start to end of the command."""
    python, traced = str(pythons.frameworks), str(pythons.traceml.parent / "traceml")
    with tempfile.TemporaryDirectory() as folder:
        watch = [python, "-m", "loaderlab", "watch"]
        commands = {
            BARE: [python, str(SCRIPT), *ARGUMENTS],
            WATCH: [*watch, str(SCRIPT), *ARGUMENTS],
            RECORD: [*watch, "--record=timed", f"--uri=sqlite:///{folder}/mlflow.db", str(SCRIPT), *ARGUMENTS],
            TRACEML: [traced, "run", "--logs-dir", f"{folder}/logs", str(SCRIPT), "--args", *ARGUMENTS, "--trace-step"],
        }
        began = time.perf_counter()
        subprocess.run(commands[arm], cwd=folder, env=environment(), check=True, capture_output=True)
        return time.perf_counter() - began


def take_rounds(
    arms: Sequence[str], rounds: int, seconds: Callable[[str], float], show: Callable[[str], None]
) -> dict[str, list[float]]:
    """Seconds of each arm in each round. The order changes from round to round."""
    results: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds):
        turn = number % len(arms)
        for arm in [*arms[turn:], *arms[:turn]]:
            results[arm].append(seconds(arm))
        show(
            f"round {number + 1} of {rounds}: {', '.join(f'{arm} {times[-1]:.2f} s' for arm, times in results.items())}"
        )
    return results


def command_lines(results: dict[str, list[float]]) -> list[str]:
    """The seconds of each arm, and what it adds to the bare script, paired by round."""
    lines = []
    for arm, times in results.items():
        text = (
            f"{arm}: median {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f}, n = {len(times)})"
        )
        if arm != BARE:
            added = interval([time - bare for time, bare in zip(times, results[BARE], strict=True)])
            text += f"; adds {added.text('.2f')} s"
        lines.append(text)
    return lines
