"""Runs the jobs of a sweep one after the other, and prints how long the rest will take."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from loaderlab.compare.grouping import may_distinguish
from loaderlab.config import TrainConfig, UserError
from loaderlab.parity.status import NOT_CHECKED, PARITY, SAME_WORK
from loaderlab.report.on_terminal import show_tables
from loaderlab.runs import launch
from loaderlab.runs.chosen_runs import comparisons_of_sweep
from loaderlab.runs.compared_loaders import compared_loaders, loader_key
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.job_start import JobStarter, planned_start
from loaderlab.runs.sweep_jobs import SweepJob
from loaderlab.runs.sweep_record import save_file, save_jobs
from loaderlab.system import machine
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.records import NOT_APPLICABLE
from loaderlab.tracking.store import Store
from loaderlab.tracking.tracked_run import TrackedRun

PARITY_FILE = "parity.json"
Arm = frozenset[tuple[str, str]]


class SweepRunner:
    """Runs the jobs of one sweep that are not done yet.

    Args:
        jobs: configuration and overrides of each job.
        planned: the same jobs, as they are saved with the parent run.
        done: the results of an earlier command, by job hash.
    """

    def __init__(
        self,
        jobs: Sequence[tuple[TrainConfig, list[str]]],
        planned: Sequence[SweepJob],
        done: Mapping[str, RunResult],
        parent: TrackedRun,
        store: Store,
        terminal: Terminal,
    ) -> None:
        self._configs, self._planned, self._done = [config for config, _ in jobs], list(planned), done
        self._parent, self._store, self._terminal = parent, store, terminal
        self._durations_s: list[float] = []
        self._starter = JobStarter(terminal.warn)

    def run(self) -> list[RunResult]:
        """The result of each job, in order."""
        try:
            return self._run_jobs()
        finally:
            self._starter.renew()  # a template is not needed any more

    def _run_jobs(self) -> list[RunResult]:
        results: list[RunResult] = []
        parity = self._check_parity() if any(map(self._is_left, self._planned)) else {}
        for index, config in enumerate(self._configs):
            job = self._planned[index]
            if job.hash in self._done:
                results.append(self._done[job.hash])
            elif job.not_applicable:  # already known from another repeat of the arm
                results.append(RunResult("", NOT_APPLICABLE, error=job.not_applicable))
            else:
                results.append(self._run_job(index, config, parity.get(loader_key(config), "")))
        return results

    def _is_left(self, job: SweepJob) -> bool:
        return job.hash not in self._done and not job.not_applicable

    def _run_job(self, index: int, config: TrainConfig, parity: str) -> RunResult:
        job = self._planned[index]
        self._terminal.say(f"\njob {index + 1} of {len(self._planned)}: {job.name}{self._time_left(index)}")
        state = machine.state()
        for text in machine.warnings(state):
            self._terminal.warn(text)
        arms = [_arm(job) for job in self._planned[index:] if self._is_left(job)]
        method = self._starter.method_for(arms, config.sweep.start)
        started = time.monotonic()
        job_to_launch = Job(job.name, job.arm, self._parent.run_id, tuple(job.overrides), job.hash, state, parity)
        result = launch.launch(config, job_to_launch, self._starter, method)
        if result.status == NOT_APPLICABLE:
            self._rule_out(job.arm, result.error)
            return result
        self._durations_s.append(time.monotonic() - started)
        if result.status != "FINISHED":
            self._report_failure(index, result)
        if index + 1 < len(self._planned):
            self._show_results_so_far()
        return result

    def _time_left(self, index: int) -> str:
        if not self._durations_s:
            return ""
        num_left = sum(map(self._is_left, self._planned[index:]))
        return f" (about {_duration(num_left * sum(self._durations_s) / len(self._durations_s))} left)"

    def _rule_out(self, arm: str, reason: str) -> None:
        """Records that no repeat of this arm can run on this machine."""
        self._planned = [replace(job, not_applicable=reason) if job.arm == arm else job for job in self._planned]
        save_jobs(self._parent, self._planned)
        self._terminal.say(f"{NOT_APPLICABLE}: {reason}")

    def _report_failure(self, index: int, result: RunResult) -> None:
        job, reason = self._planned[index], next(iter(result.error.splitlines()), "")
        if not result.run_id:  # it may have ended before it had a run to record the reason
            self._planned[index] = replace(job, ended=f"{result.status.lower()}: {reason or 'no reason given'}")
            save_jobs(self._parent, self._planned)
        self._terminal.say(f"{job.name}: {result.status.lower()}: {reason}")
        self._store.close_dead_runs(result.error)

    def _show_results_so_far(self) -> None:
        """Prints the comparison of the finished jobs, if there are any."""
        try:
            comparisons = comparisons_of_sweep(self._store, self._parent.run_id)
        except UserError:
            return
        for comparison in comparisons:
            show_tables(comparison, self._terminal)

    def _check_parity(self) -> dict[str, str]:
        """The parity tag of each loader, by `loader_key`: whether it does the same work as the others. Results of an earlier
        command are reused."""
        sweep = self._configs[0].sweep
        if not sweep.parity or all(config.measure.parity for config in self._configs):
            return {}
        results: dict[str, dict[str, Any]] = json.loads(self._store.read(self._parent.run_id, PARITY_FILE) or "{}")
        loaders = compared_loaders(self._configs)
        unchecked = {"status": NOT_CHECKED}
        left = [entry for entry in loaders if results.get(entry.key, unchecked)["status"].startswith(NOT_CHECKED)]
        if left:
            self._terminal.say(
                f"\nparity: checking that {len(loaders)} loaders do the same work (sweep.parity=false skips this)"
            )
            arms = [_arm(job) for job in self._planned if self._is_left(job)]
            method, _ = planned_start(arms, [], sweep.start)
            results |= launch.check_parity(left, sweep.job_minutes, self._starter, method)
            save_file(self._parent, PARITY_FILE, json.dumps(results, indent=1))
            other_results = [
                f"{entry['loader']}: {entry['status']}" for entry in results.values() if entry["status"] != SAME_WORK
            ]
            self._parent.tags({PARITY: "; ".join(other_results) or SAME_WORK})
        return {key: entry["status"] for key, entry in results.items()}


def _arm(job: SweepJob) -> Arm:
    """What the repeats of an arm share: the settings by which a comparison distinguishes arms."""
    return frozenset((name, value) for name, value in job.settings.items() if name == "rung" or may_distinguish(name))


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
