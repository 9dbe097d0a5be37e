"""The engine that tunes the loader of `loaderlab train`: each trial is a run in a fresh process, recorded in MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from loaderlab import metrics
from loaderlab.config import TEMPLATE, TrainConfig, TuneConfig, UserError
from loaderlab.parity.status import SAME_WORK
from loaderlab.runs import launch
from loaderlab.runs.compared_loaders import ComparedLoader, loader_key
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.job_start import JobStarter
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.records import NOT_APPLICABLE
from loaderlab.tuning.candidate import Branch, Candidate
from loaderlab.tuning.suite_facts import describe
from loaderlab.tuning.suite_settings import overrides_of, run_of, trial_config
from loaderlab.tuning.trial import Facts, Measured, Trial, TrialFailed

FACTS_MINUTES = 10.0  # for preparing the data, which may have to be generated first
MINUTES = "tune.minutes"  # the setting with the time limit of a trial, unless the command has one
MORE = object()  # stands for trials that are not known yet


@dataclass(frozen=True)
class TrialRun:
    """How a trial is recorded: ``parent_id`` is the run of the tuner, and ``failed`` is called after a trial that died."""

    parent_id: str
    failed: Callable[[str], None]


class SuiteEngine:
    """Runs the trials of one command. Call `facts` first, then `record_under`.

    Args:
        config: the command's run.
        tune: the settings of the tuner.
        overrides: as typed, for the record.
        terminal: gets the warnings of trials, each once.
    """

    def __init__(self, config: TrainConfig, tune: TuneConfig, overrides: list[str], terminal: Terminal) -> None:
        self._config, self._tune, self._overrides, self._terminal = config, tune, overrides, terminal
        self._starter = JobStarter(terminal.warn)
        self._facts: Facts | None = None
        self._record: TrialRun | None = None
        self._parity: dict[str, str] = {}  # the result of each loader that was checked
        self._round = 0

    def facts(self) -> Facts:
        """See `loaderlab.tuning.trial.Engine`. Prepares the data, in another process."""
        if self._facts is None:
            method = self._starter.method_for(["facts", MORE], TEMPLATE)
            args = (self._config, self._tune)
            with self._terminal.progress("preparing the samples", None):
                self._facts = launch.call(describe, args, "tune", FACTS_MINUTES, self._starter, method)
        return self._facts

    def record_under(self, record: TrialRun) -> None:
        """Records the trials under the tuner's own run."""
        self._record = record

    def refuses(self, branch: Branch) -> str:
        """See `loaderlab.tuning.trial.Engine`: the loader must do the same work as the current one, as in a sweep."""
        current = self.facts().current.branch
        statuses = self._statuses([self._compared(current), self._compared(branch)])
        now, then = statuses
        if then == now or (then == SAME_WORK and now.startswith("not checked")):
            return "" if then == SAME_WORK else f"its work cannot be compared with the current loader's: {then}"
        return (
            then
            if then != SAME_WORK
            else f"the current loader does other work than the reference ({now}), and this one does not"
        )

    def run(self, trial: Trial) -> Measured:
        """See `loaderlab.tuning.trial.Engine`."""
        facts, record = self.facts(), self._record
        assert record is not None, "record_under comes first"
        try:
            config = trial_config(trial, facts.current, self._config, self._tune.minutes)
        except UserError as error:
            raise TrialFailed(str(error)) from None
        began, launched_at = time.monotonic(), time.time()
        try:
            method = self._method(trial)
            job = self._job(trial, record.parent_id)
            limit = MINUTES if self._config.sweep.job_minutes is None else launch.JOB_LIMIT
            result = launch.launch(config, job, self._starter, method, quietly=True, limit=limit)
        except KeyboardInterrupt:
            record.failed("interrupted")
            raise
        self._warn(result)
        if result.status != "FINISHED" or result.window is None:
            reason = next(iter(result.error.splitlines()), "") or "no step was measured"
            if result.status != NOT_APPLICABLE:
                record.failed(reason)
            raise TrialFailed(reason)
        return measured_of(result, launched_at, time.monotonic() - began)

    def close(self) -> None:
        """Ends the template from which trials are forked."""
        self._starter.renew()

    def _method(self, trial: Trial) -> str:
        """How the process of a trial starts. A template never serves two runs of the same settings, and each round of the confirmation
        has its own: see `loaderlab.runs.job_start.planned_start`."""
        if trial.round != self._round:
            self._round = trial.round
            self._starter.renew()
        return self._starter.method_for([trial.candidate, MORE], TEMPLATE)

    def _job(self, trial: Trial, parent_id: str) -> Job:
        candidate = trial.candidate
        overrides = overrides_of(candidate, self.facts().current, self._config.loader)
        suffix = f", round {trial.round}" if trial.round else ""
        tags = {"tune.candidate": " ".join(overrides), "tune.reason": trial.reason, "tune.round": str(trial.round)}
        own = [text for text in self._overrides if not text.startswith("tune.")]
        name = f"{candidate.title}{suffix}"
        return Job(name, candidate.title, parent_id, (*own, *overrides), tags=tags)

    def _compared(self, branch: Branch) -> ComparedLoader:
        current = self.facts().current
        candidate = current if branch == current.branch else Candidate(branch, max(1, current.makers))
        config = run_of(candidate, current, self._config)
        return ComparedLoader(loader_key(config), branch.title, config)

    def _statuses(self, loaders: list[ComparedLoader]) -> list[str]:
        """Whether each loader does the work of the reference; each is checked once."""
        unknown = [entry for entry in loaders if entry.key not in self._parity]
        if unknown:
            method = self._starter.method_for([*(entry.key for entry in unknown), MORE], TEMPLATE)
            with self._terminal.progress(f"checking that {unknown[-1].name} does the same work", None):
                results = launch.check_parity(
                    unknown, self._tune.minutes, self._starter, method, quietly=True, limit=MINUTES
                )
            self._parity |= {key: str(result["status"]) for key, result in results.items()}
        return [self._parity[entry.key] for entry in loaders]

    def _warn(self, result: RunResult) -> None:
        known = self._terminal.warnings
        for text in result.warnings:
            if text not in known:
                self._terminal.warn(text)


def measured_of(result: RunResult, launched_at: float, total_s: float) -> Measured:
    """What a finished run measured.

    Args:
        launched_at: when its start was requested, in seconds since 1970.
        total_s: from then to its end.
    """
    window, figures = result.window, result.figures
    assert window is not None
    return Measured(
        rate=window.rate,
        starved_pct=window.starved_pct,
        starved_interval=window.starved_interval,
        step_ms=figures[metrics.STEP_MS],
        num_steps=window.num_steps,
        gap_ms=figures.get(metrics.EPOCH_GAP_MS),
        late_steps=window.late_steps,
        delivery_pct=window.delivery_pct,
        ceiling=figures.get(metrics.CEILING_RATE),
        ceiling_by_threads=window.ceiling_by_threads,
        contended=figures.get(metrics.CONTENDED_RATE),
        loader_alone=figures.get(metrics.LOADER_RATE),
        loader_cores=figures.get(metrics.LOADER_CORES),
        torch_threads=window.torch_threads,
        host_ms=sum(
            figures[name] for phase, name in metrics.HOST_PHASE_MS.items() if phase != "wait" and name in figures
        )
        or None,
        cpu_s_per_sample=window.cpu_s_per_sample,
        worker_mib=figures.get(metrics.WORKER_MIB),
        host_mib=figures.get(metrics.HOST_PEAK_MIB),
        start_s=None if window.first_step_at is None else max(0.0, window.first_step_at - launched_at),
        total_s=total_s,
        run_id=result.run_id,
    )
