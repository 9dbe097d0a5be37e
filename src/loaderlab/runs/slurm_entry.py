"""What runs in a Slurm job: a job of a sweep, the check of its loaders, or the ranks of a node."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from loaderlab.config import SlurmConfig, SlurmLaunch, TrainConfig, UserError
from loaderlab.runs.job import Job, RunResult
from loaderlab.system import machine, slurm_task
from loaderlab.system.processes import error_line, importing, process_age_s, sigterm_raises, time_limit_raises
from loaderlab.system.streams import store_output
from loaderlab.system.terminal import Terminal

RECORD_S = 90.0  # for a run to write its record before Slurm ends it
LEAST_S = 0.1  # 0 would mean no limit


def run_submitted(config: TrainConfig, job: Job) -> RunResult:
    """The result of a sweep's job that runs in this process, which Slurm started."""
    with importing():
        from loaderlab.runs.start import start_run
    terminal = Terminal()
    state = machine.state()  # of this node, not of the launching host
    for text in machine.warnings(state):
        terminal.warn(text)
    sweep = config.sweep
    limits = [(slurm_limit_s(sweep.slurm), f"Slurm's time limit, sweep.slurm.minutes={sweep.slurm.minutes}")]
    if sweep.job_minutes is not None:
        limits.append((60 * sweep.job_minutes, "its time limit, sweep.job_minutes"))
    return _result_of(lambda: start_run(config, replace(job, machine=state), terminal), min(limits))


def run_node(config: TrainConfig, job: Job) -> RunResult:
    """The result of a job of several ranks, whose ranks on this node run under this process, which Slurm started."""
    with importing():
        from loaderlab.runs.elastic import NodeSpec, check_gpus, run_ranks
    launch = config.launch
    assert isinstance(launch, SlurmLaunch)

    def run() -> RunResult:
        num_ranks = launch.num_node_ranks
        check_gpus(config, num_ranks, "launch.ranks_per_node")
        job_id = slurm_task.own_job_id()
        spec = NodeSpec(
            launch.num_nodes, num_ranks, slurm_task.endpoint(), f"slurm-{job_id}", launch.join_s, slurm_job=job_id
        )
        return run_ranks(config, job, Terminal(), spec)

    return _result_of(run, (slurm_limit_s(launch), f"Slurm's time limit, launch.minutes={launch.minutes}"))


def check_submitted(arms: Mapping[str, TrainConfig]) -> dict[str, dict[str, Any]]:
    """The result of `loaderlab.parity.check.check_all` in this process, which Slurm started."""
    from loaderlab.parity.check import check_all

    slurm = next(iter(arms.values())).sweep.slurm
    with _time_limit(slurm_limit_s(slurm), "Slurm's time limit"), sigterm_raises():
        return check_all(arms, Terminal())


def slurm_limit_s(settings: SlurmConfig) -> float:
    """Seconds from now after which a run in a Slurm job ends, so that it can record its results before Slurm ends it. The time that
    this process needed to start is part of Slurm's limit."""
    return max(60 * settings.minutes - RECORD_S, 45 * settings.minutes) - process_age_s()


def _result_of(run: Callable[[], RunResult], limit: tuple[float, str]) -> RunResult:
    """The result of a run. A failure is a result too. Its output is on the disk before the result is: the launching process prints no
    more of it after it has seen the result."""
    try:
        with _time_limit(*limit), sigterm_raises():
            return run()
    except KeyboardInterrupt as error:
        return RunResult("", "KILLED", error=error_line(error))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return RunResult("", "FAILED", error=error_line(error))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return RunResult("", "FAILED", error=error_line(error))
    finally:
        store_output()


@contextmanager
def _time_limit(seconds: float, name: str) -> Iterator[None]:
    """Raises `OutOfTime` after this time. Replaces submitit's handlers of signals, which would submit the job again."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    time_limit_raises(
        signal.SIGALRM, f"ended shortly before {name}" if name.startswith("Slurm") else f"took longer than {name}"
    )
    signal.setitimer(signal.ITIMER_REAL, max(LEAST_S, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
