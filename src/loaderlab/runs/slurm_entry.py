"""What runs in a Slurm job of a sweep: one run, or the check of its loaders."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from loaderlab.config import TrainConfig, UserError
from loaderlab.runs.job import Job, RunResult
from loaderlab.system import machine
from loaderlab.system.processes import error_line, importing, sigterm_raises, time_limit_raises
from loaderlab.system.terminal import Terminal


def run_submitted(config: TrainConfig, job: Job) -> RunResult:
    """The result of a sweep's job that runs in this process, which Slurm started. A failure is a result too."""
    with importing():
        from loaderlab.runs.run import run
    terminal = Terminal()
    state = machine.state()  # of this node, not of the launching host
    for text in machine.warnings(state):
        terminal.warn(text)
    try:
        with _ended_by_slurm(config):
            return run(config, replace(job, machine=state), terminal)
    except KeyboardInterrupt as error:
        return RunResult("", "KILLED", error=error_line(error))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return RunResult("", "FAILED", error=error_line(error))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return RunResult("", "FAILED", error=error_line(error))


def check_submitted(arms: Mapping[str, TrainConfig]) -> dict[str, dict[str, Any]]:
    """The result of `loaderlab.parity.check.check_all` in this process, which Slurm started."""
    from loaderlab.parity.check import check_all

    with _ended_by_slurm(next(iter(arms.values()))):
        return check_all(arms, Terminal())


@contextmanager
def _ended_by_slurm(config: TrainConfig) -> Iterator[None]:
    """Replaces submitit's signal handlers, which would submit the job again: SIGTERM, Slurm's signal before its time limit and
    ``sweep.job_minutes`` end the run, which records its results."""

    limit_text = f"ended shortly before Slurm's time limit, sweep.slurm.minutes={config.sweep.slurm.minutes}"
    time_limit_raises(signal.SIGUSR2, limit_text)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    if (minutes := config.sweep.job_minutes) is not None:
        time_limit_raises(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        with sigterm_raises():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
