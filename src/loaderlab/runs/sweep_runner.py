"""Runs the jobs of a sweep one after the other, and prints how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from loaderlab.compare.grouping import may_distinguish
from loaderlab.config import TrainConfig
from loaderlab.runs import launch
from loaderlab.runs.compared_loaders import ComparedLoader, loader_key
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.job_start import JobStarter, planned_start
from loaderlab.runs.sweep_jobs import SweepJob
from loaderlab.runs.sweep_parity import check_loaders
from loaderlab.runs.sweep_plan import SweepPlan
from loaderlab.system import machine
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.records import NOT_APPLICABLE

Arm = frozenset[tuple[str, str]]


class SweepRunner:
    """Runs the jobs of one sweep that are not done yet, on this machine.

    Args:
        configs: the configuration of each job.
        plan: the same jobs, as they are saved with the parent run.
    """

    def __init__(self, configs: Sequence[TrainConfig], plan: SweepPlan, terminal: Terminal) -> None:
        self._configs, self._plan, self._terminal = configs, plan, terminal
        self._durations_s: list[float] = []
        self._starter = JobStarter(terminal.warn)

    def run(self) -> list[RunResult]:
        """The result of each job, in order."""
        try:
            return self._run_jobs()
        finally:
            self._starter.renew()  # a template is not needed any more

    def _run_jobs(self) -> list[RunResult]:
        plan = self._plan
        parity = (
            check_loaders(self._configs, plan.parent, plan.store, self._terminal, self._checked) if plan.left else {}
        )
        return [
            plan.known_result(index) or self._run_job(index, config, parity.get(loader_key(config), ""))
            for index, config in enumerate(self._configs)
        ]

    def _run_job(self, index: int, config: TrainConfig, parity: str) -> RunResult:
        plan, job = self._plan, self._plan.jobs[index]
        self._terminal.say(f"\n{plan.title(index)}{self._time_left(index)}")
        state = machine.state()
        for text in machine.warnings(state):
            self._terminal.warn(text)
        arms = [_arm(job) for job in plan.jobs[index:] if plan.is_left(job)]
        method = self._starter.method_for(arms, config.sweep.start)
        started = time.monotonic()
        job_to_launch = Job(job.name, job.arm, plan.parent.run_id, tuple(job.overrides), job.hash, state, parity)
        result = launch.launch(config, job_to_launch, self._starter, method)
        if result.status == NOT_APPLICABLE:
            plan.rule_out(job.arm, result.error)
            return result
        self._durations_s.append(time.monotonic() - started)
        if result.status != "FINISHED":
            plan.report_failure(index, result)
        if index + 1 < len(plan.jobs):
            plan.show_results_so_far()
        return result

    def _time_left(self, index: int) -> str:
        if not self._durations_s:
            return ""
        num_left = sum(map(self._plan.is_left, self._plan.jobs[index:]))
        return f" (about {_duration(num_left * sum(self._durations_s) / len(self._durations_s))} left)"

    def _checked(self, loaders: Sequence[ComparedLoader]) -> dict[str, dict[str, Any]]:
        sweep = self._configs[0].sweep
        method, _ = planned_start([_arm(job) for job in self._plan.left], [], sweep.start)
        return launch.check_parity(loaders, sweep.job_minutes, self._starter, method)


def _arm(job: SweepJob) -> Arm:
    """What the repeats of an arm share: the settings by which a comparison distinguishes arms."""
    return frozenset((name, value) for name, value in job.settings.items() if name == "rung" or may_distinguish(name))


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
