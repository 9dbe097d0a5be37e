"""One run, from its configuration to its record: prepare, train, probe, judge, record."""

from __future__ import annotations

import contextlib
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loaderlab.config import INSTALLED, PROJECT, TooFewSamples, TrainConfig, UserError, WrongUsage, refuse, store_root
from loaderlab.config.emulated import BF16_RUNG
from loaderlab.device.base import Device
from loaderlab.device.cpu import Cpu, processor_name
from loaderlab.device.resolve import device_of
from loaderlab.loaders.header import lift_pillow_limit
from loaderlab.loaders.resolve import needs_gpu
from loaderlab.loaders.worker_death import explained
from loaderlab.parity.status import PARITY
from loaderlab.probes.sequence import Probes
from loaderlab.runs.accelerator_note import limit_note
from loaderlab.runs.context import RunContext
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.job_start import start_method
from loaderlab.runs.judge import Judged, judge_job, judge_run, warn_of_results, window_of, with_own_cost
from loaderlab.runs.ladder_precision import NO_ARITHMETIC
from loaderlab.runs.loader_set import LoaderSet
from loaderlab.runs.measured_loop import MeasuredLoop, Trained
from loaderlab.runs.outputs import Outcome, record
from loaderlab.runs.prepare import Prepared, prepare
from loaderlab.runs.probe import probe
from loaderlab.runs.rank_checks import check_device, check_settings
from loaderlab.runs.rank_process import read_infos
from loaderlab.runs.rank_results import RankReport, report_of, unsaid
from loaderlab.runs.setup import setup_of
from loaderlab.system import doctor, slurm_task, versions
from loaderlab.system.causes import described, reason, safe_text
from loaderlab.system.processes import Terminated, ignore_sigterm, process_age_s, sigterm_raises
from loaderlab.system.ranks import SINGLE, node_name
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from loaderlab.tracking.records import NODE, NOT_APPLICABLE, PROCESSOR, SLURM_JOB
from loaderlab.tracking.untracked import Untracked
from loaderlab.training import precision
from loaderlab.training.batch_of_one import BatchOfOne, refuse_evaluation, refuse_training
from loaderlab.training.rank_group import RankGroup

if TYPE_CHECKING:  # only rank 0 imports MLflow
    from loaderlab.tracking.store import Store
    from loaderlab.tracking.tracked_run import TrackedRun

SERVER_WAIT_S = 120.0  # for a tracking server that does not answer when a job of a sweep starts


def run(
    config: TrainConfig,
    job: Job,
    terminal: Terminal,
    group: RankGroup | None = None,
    rank_folder: Path | None = None,
) -> RunResult:
    """Trains as configured and records the run.

    Args:
        group: the ranks that train together, each of which calls this function; rank 0 records the run. None: one process.
        rank_folder: for this rank's files, which its agent reads.

    Raises:
        UserError: bad input, a full disk, or a device out of memory; the run and its results so far are recorded as FAILED.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the run and its results so far are recorded as KILLED.
    """
    ranks = SINGLE if group is None else group.ranks
    if group is not None:
        check_settings(group, config)
    if job.parent_id is not None and (why := _not_applicable(config)):
        return RunResult("", NOT_APPLICABLE, error=why)
    lift_pillow_limit()
    # a sweep must not lose a job because the tracking server is being restarted
    wait_s = SERVER_WAIT_S if job.parent_id is not None else 0.0
    store = open_store(config.tracking, store_root(), wait_s=wait_s) if ranks.is_first else None
    tags = {"arm": job.arm, "repeat": str(config.repeat), "versions": _versions()}
    tags |= {NODE: node_name(), PROCESSOR: processor_name()}
    if slurm_id := slurm_task.own_job_id():
        tags[SLURM_JOB] = slurm_id
    if job.parent_id is not None:
        tags["process.start"] = start_method()
    if job.hash:
        tags["config.hash"] = job.hash
    if job.parity:
        tags[PARITY] = job.parity
    tags |= job.tags
    if not INSTALLED and (commit := versions.git_commit(PROJECT)):
        tags["git.commit"] = commit
    with contextlib.ExitStack() as stack:
        if job.parent_id is None and store is not None:  # a sweep prints this once for all its jobs
            stack.callback(lambda: terminal.say(store.ui_text()))
        stack.enter_context(sigterm_raises())
        tracked = _started(store, job, tags, group)
        stack.enter_context(tracked)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="loaderlab-"))
        stages = _Stages(RunContext(config, job, terminal, tracked, Path(folder), group, rank_folder))
        try:
            stages.run()
        except BaseException as error:
            explanation = _explained(config, error)
            if isinstance(explanation, WrongUsage) and not isinstance(
                explanation, TooFewSamples
            ):  # the run has started
                explanation = UserError(str(explanation))
            ignore_sigterm()  # a second SIGTERM must not spoil the record; a second Ctrl-C may
            stages.close()  # first, since the death of another worker must not spoil it either
            stages.record(explanation)
            if explanation is error:
                raise
            raise explanation from error
        finally:
            stages.close()  # a second call is harmless
        judged = stages.record(None)
    if judged is None:
        return RunResult(tracked.run_id, tracked.status)
    window = window_of(judged, time.time() - process_age_s())
    return RunResult(tracked.run_id, tracked.status, judged.figures, verdict=judged.verdict.grade, window=window)


def _started(store: Store | None, job: Job, tags: dict[str, str], group: RankGroup | None) -> TrackedRun | Untracked:
    """The run in MLflow; on the other ranks than 0 one that records nothing."""
    tracked = None if store is None else store.start(job.name, job.parent_id, tags)
    if group is None:
        assert tracked is not None
        return tracked
    run_id = group.broadcast("" if tracked is None else tracked.run_id)
    return tracked or Untracked(run_id)


class _Stages:
    """The stages of one run, in order, and their results so far, which `record` writes even if the run ended early."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._loaders = LoaderSet(context.config, context.terminal, context.ranks)
        self._probes = Probes()
        self._device: Device = Cpu()  # until it is resolved
        self._prepared: Prepared | None = None
        self._trained: Trained | None = None
        self._reports: list[RankReport] = []  # of all ranks, on rank 0

    def run(self) -> None:
        """Prepares, trains and probes."""
        self._context.tracked.params(self._context.config.recorded())
        group = self._context.group
        self._device = device_of(self._context.config, None if group is None else group.ranks.local_rank)
        if group is not None:
            check_device(group, self._device)
        prepared = self._prepared = prepare(self._context, self._loaders, self._device)
        if note := limit_note(setup_of(self._context, prepared)):
            self._context.terminal.warn(note)
        loop = MeasuredLoop(self._context, prepared, self._loaders)
        try:
            loop.run()
        finally:
            trained = self._trained = loop.result()
        probe(self._context, prepared, trained, self._loaders, self._probes)
        self.close()  # a loader's workers must not slow what is measured next
        self._measure_own_cost(prepared, trained)
        if group is not None:
            self._reports = self._gathered(group, prepared)

    def _gathered(self, group: RankGroup, prepared: Prepared) -> list[RankReport]:
        """The reports of all ranks, on rank 0."""
        assert self._trained is not None
        self._loaders.report_skipped()
        results, skipped = self._probes.results, self._loaders.skipped
        reports = group.gather(report_of(self._context, prepared, self._trained, results, skipped))
        for text in unsaid(reports or []):
            self._context.terminal.warn(text)
        return reports or []

    def _known_reports(self) -> list[RankReport]:
        """The reports of the ranks: after a failure, those of the ranks of this node by the steps that they have written."""
        folder = self._context.rank_folder
        if self._reports or folder is None:
            return self._reports
        from loaderlab.runs.rank_rows import reports_of_files

        return reports_of_files(read_infos(folder.parent))

    def _measure_own_cost(self, prepared: Prepared, trained: Trained) -> None:
        self._trained = replace(trained, loop=with_own_cost(self._context, prepared, trained.loop))

    def record(self, error: BaseException | None) -> Judged | None:
        """Judges and records the results so far. Returns None if no step has finished."""
        self._loaders.report_skipped()
        context, prepared, skipped = self._context, self._prepared, self._loaders.skipped
        failed, judged = error is not None, None
        asynchronous = self._device.capabilities.asynchronous
        if failed and prepared is not None and self._trained is not None and not asynchronous:
            self._measure_own_cost(prepared, self._trained)
        trained = self._trained
        if context.group is not None and not context.ranks.is_first:
            return None
        if prepared is not None and trained is not None and trained.loop.steps:
            if reports := self._known_reports():
                judged = judge_job(context, prepared, trained, reports)
                skipped = list(dict.fromkeys(text for report in reports for text in report.skipped)) or skipped
            else:
                judged = judge_run(context, prepared, trained, self._probes.results, len(skipped))
            warn_of_results(context, prepared, judged, failed=failed)
        step, untimed = (trained.step, trained.untimed) if trained is not None else (0, [])
        record(context, Outcome(self._device, prepared, judged, step, untimed, tuple(skipped), error))
        return judged

    def close(self) -> None:
        """Ends the loaders' workers and threads."""
        self._loaders.close()


def _not_applicable(config: TrainConfig) -> str:
    """Why a job of a sweep cannot run on this machine; empty if it can. A single run fails with an error instead."""
    device = device_of(config)
    if device.capabilities.emulated:
        return NO_ARITHMETIC if config.rung == BF16_RUNG else needs_gpu(config.loader, device)
    refused = precision.unsupported(config.precision, device)
    if refused is None and config.study is not None:
        refused = precision.unsuitable(config.precision, device, ladder=config.rung is not None)
    if refused is not None:
        return str(refused)
    return needs_gpu(config.loader, device)


def _versions() -> str:
    """The versions that affect a measurement, as a tag that distinguishes runs with different software."""
    relevant = {name: text for name, text in versions.versions().items() if name not in ("mlflow", "hydra-core")}
    return ", ".join(f"{name} {text}" for name, text in {"python": platform.python_version(), **relevant}.items())


def _explained(config: TrainConfig, error: BaseException) -> BaseException:
    """The error itself, or one that explains it to the user."""
    if not isinstance(error, KeyboardInterrupt) and slurm_task.end_of_own_job():
        return Terminated()  # Slurm's SIGTERM also reaches a loader's workers, whose death may be noticed first
    if isinstance(error, BatchOfOne):  # only of a stream; with a known length, the model was checked earlier
        refused = refuse_training if error.in_training else refuse_evaluation
        return refused(config, str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return _out_of_memory(config, error)
    if (explanation := explained(error)) is not error:
        return explanation
    if isinstance(error, SystemExit):
        return UserError(f"the code of the model or the dataset ended the process: {described(error)}")
    if isinstance(error, RuntimeError) and "deterministic" in safe_text(error) and config.deterministic:
        allowed = reason(error).removesuffix(".")
        return refuse("deterministic", "true", allowed, "deterministic=false", is_example=False)
    if not isinstance(error, UserError) and (why := doctor.cause(error)):
        return UserError(f"{why} ({described(error)})")
    return error


def _out_of_memory(config: TrainConfig, error: torch.OutOfMemoryError) -> UserError:
    detail = safe_text(error).split(". ")[:2]
    smaller_batch = max(1, config.batch_size // 2)
    accumulate_hint = f" (with accumulate={2 * config.accumulate} the weights are updated as before)"
    return UserError(
        f"CUDA out of memory with batch_size={config.batch_size}: {'. '.join(detail)}. Type batch_size={smaller_batch}"
        f"{accumulate_hint}, or precision=bf16, a smaller model or a smaller data.transform.image_size"
    )
