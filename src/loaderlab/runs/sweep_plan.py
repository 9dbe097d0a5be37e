"""The list of a sweep's jobs while they run: what is known about each, saved with the parent run after each change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loaderlab.config import UserError
from loaderlab.report.on_terminal import show_tables
from loaderlab.runs.chosen_runs import comparisons_of_sweep
from loaderlab.runs.job import RunResult
from loaderlab.runs.sweep_jobs import SweepJob
from loaderlab.runs.sweep_record import save_jobs
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.records import NOT_APPLICABLE
from loaderlab.tracking.store import Store
from loaderlab.tracking.tracked_run import TrackedRun


class SweepPlan:
    """The jobs of a sweep, in order.

    Args:
        done: the results of an earlier command, by job hash.
    """

    def __init__(
        self,
        jobs: Sequence[SweepJob],
        done: Mapping[str, RunResult],
        parent: TrackedRun,
        store: Store,
        terminal: Terminal,
    ) -> None:
        self.jobs, self.done, self.parent, self.store = list(jobs), done, parent, store
        self._terminal = terminal

    def is_left(self, job: SweepJob) -> bool:
        """Whether it still has to run."""
        return job.hash not in self.done and not job.not_applicable

    @property
    def left(self) -> list[SweepJob]:
        return [job for job in self.jobs if self.is_left(job)]

    def known_result(self, index: int) -> RunResult | None:
        """The result of a job that does not have to run; None if it has to."""
        job = self.jobs[index]
        if job.hash not in self.done and job.not_applicable:  # already known from another repeat of the arm
            return RunResult("", NOT_APPLICABLE, error=job.not_applicable)
        return self.done.get(job.hash)

    def title(self, index: int) -> str:
        return f"job {index + 1} of {len(self.jobs)}: {self.jobs[index].name}"

    def rule_out(self, arm: str, reason: str) -> None:
        """Records that no repeat of this arm can run on this machine."""
        self.jobs = [replace(job, not_applicable=reason) if job.arm == arm else job for job in self.jobs]
        save_jobs(self.parent, self.jobs)
        self._terminal.say(f"{NOT_APPLICABLE}: {reason}")

    def report_failure(self, index: int, result: RunResult) -> None:
        """Prints and records why a job did not finish."""
        job, reason = self.jobs[index], next(iter(result.error.splitlines()), "")
        if not result.run_id:  # it may have ended before it had a run to record the reason
            self.jobs[index] = replace(job, ended=f"{result.status.lower()}: {reason or 'no reason given'}")
            save_jobs(self.parent, self.jobs)
        self._terminal.say(f"{job.name}: {result.status.lower()}: {reason}")
        self.store.close_dead_runs(result.error)

    def set_slurm_id(self, index: int, slurm_id: str) -> None:
        """Records as which Slurm job it was submitted."""
        self.jobs[index] = replace(self.jobs[index], slurm_id=slurm_id, ended="")
        save_jobs(self.parent, self.jobs)

    def show_results_so_far(self) -> None:
        """Prints the comparison of the finished jobs, if there are any."""
        try:
            comparisons = comparisons_of_sweep(self.store, self.parent.run_id)
        except UserError:
            return
        for comparison in comparisons:
            show_tables(comparison, self._terminal)
