"""Runs the jobs of a sweep as Slurm jobs. They do not end with this process, and a later command collects them.

Slurm stores the parent run and the job's hash with each job, so that no job is submitted twice, even if this process was killed
before it could record the id of a job.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loaderlab.config import TrainConfig
from loaderlab.parity.status import NOT_CHECKED
from loaderlab.runs import slurm_entry
from loaderlab.runs.compared_loaders import ComparedLoader, loader_key
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.slurm_end import result_of, with_cause
from loaderlab.runs.slurm_submit import Allocation, Submitter, check_slurm, needed_paths
from loaderlab.runs.sweep_parity import check_loaders
from loaderlab.runs.sweep_plan import SweepPlan
from loaderlab.system import slurm
from loaderlab.system.causes import safe_text
from loaderlab.system.processes import BY_SIGTERM
from loaderlab.system.program import command
from loaderlab.system.slurm import JobState, SlurmError
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.records import NOT_APPLICABLE

LOOK_S = 1.0  # between two looks for results
QUERY_S = 10.0  # between two questions to Slurm
GRACE_S = 10.0  # for the result of a job that has ended to appear on a shared file system
PARITY = "parity"


def check_cluster(configs: Sequence[TrainConfig]) -> None:
    """Raises:
    UserError: Slurm is missing or refuses the jobs.
    """
    check_slurm("sweep.on=slurm", "sweep.on=local", allocation_of(configs))


def allocation_of(configs: Sequence[TrainConfig]) -> Allocation:
    """What each job requests; all request the same."""
    settings = configs[0].sweep.slurm
    return Allocation(settings, cpus=settings.cpus, gpus=settings.gpus, paths=needed_paths(configs))


class SlurmSweep:
    """The jobs of one sweep that are not done yet, in Slurm.

    Args:
        configs: the configuration of each job.
        plan: the same jobs, as they are saved with the parent run.
    """

    def __init__(self, configs: Sequence[TrainConfig], plan: SweepPlan, terminal: Terminal) -> None:
        self._configs, self._plan, self._terminal = configs, plan, terminal
        self._sweep = configs[0].sweep
        self._allocation = allocation_of(configs)
        self._submitter = Submitter(Path(self._sweep.slurm.folder) / plan.parent.run_id, self._allocation)
        self._results: dict[int, RunResult] = {}
        self._waiting: dict[int, str] = {}  # the Slurm job of each job that has no result yet
        self._ended_s: dict[str, float] = {}  # when each Slurm job was first seen as ended
        self._reasons: dict[str, str] = {}  # printed: why a Slurm job waits
        self._parity_id = ""

    def run(self) -> list[RunResult]:
        """The result of each job, in order.

        Raises:
            KeyboardInterrupt: the Slurm jobs continue; how to cancel them has been printed.
        """
        plan = self._plan
        self._warn_of_sqlite()
        try:
            self._adopt()
            parity = (
                check_loaders(self._configs, plan.parent, plan.store, self._terminal, self._checked)
                if plan.left
                else {}
            )
            while True:
                self._collect()
                self._submit(parity)
                if not self._waiting:
                    return [self._results.get(index) or self._known(index) for index in range(len(plan.jobs))]
                self._sleep(list(self._waiting.values()))
        except KeyboardInterrupt:
            if self._parity_id:
                with suppress(SlurmError):
                    slurm.ask(["scancel", self._parity_id])
            if self._waiting:
                ids = list(self._waiting.values())
                self._terminal.say(
                    f"\n{len(ids)} Slurm jobs still run or wait. To cancel them: scancel {' '.join(ids)}"
                )
            raise

    def _known(self, index: int) -> RunResult:
        result = self._plan.known_result(index)
        assert result is not None
        return result

    def _adopt(self) -> None:
        """Finds the jobs that an earlier command has submitted."""
        plan, live = self._plan, self._live_jobs()
        for index, job in enumerate(plan.jobs):
            if not plan.is_left(job):
                continue
            job_id = live.get(job.hash) or job.slurm_id
            if job_id and (job_id in live.values() or self._submitter.was_sent(job_id)):
                self._waiting[index] = job_id
                if job_id != job.slurm_id:
                    plan.set_slurm_id(index, job_id)
        if self._waiting:
            self._terminal.say(f"{len(self._waiting)} jobs were submitted before: {' '.join(self._waiting.values())}")
        if PARITY in live:
            with suppress(SlurmError):  # it may have ended
                slurm.ask(["scancel", live[PARITY]])

    def _live_jobs(self) -> dict[str, str]:
        """The Slurm job of each job of this sweep that waits or runs, by its hash."""
        prefix = self._comment("")
        return {
            state.comment.removeprefix(prefix): job_id
            for job_id, state in slurm.own_jobs().items()
            if state.comment.startswith(prefix) and not state.has_ended
        }

    def _comment(self, what: str) -> str:
        return f"loaderlab:{self._plan.parent.run_id}:{what}"

    def _submit(self, parity: dict[str, str]) -> None:
        """Submits jobs until as many run or wait as are allowed."""
        plan = self._plan
        for index, config in enumerate(self._configs):
            if len(self._waiting) >= self._sweep.jobs_at_once:
                return
            if index in self._waiting or index in self._results or plan.known_result(index) is not None:
                continue
            planned = plan.jobs[index]
            own_parity = parity.get(loader_key(config), "")
            job = Job(
                planned.name, planned.arm, plan.parent.run_id, tuple(planned.overrides), planned.hash, {}, own_parity
            )
            try:
                job_id = self._submitter.submit(
                    slurm_entry.run_submitted,
                    config,
                    job,
                    name=f"loaderlab-{plan.parent.run_id[:6]}-{index + 1}",
                    comment=self._comment(planned.hash),
                )
            except SlurmError as error:
                if self._waiting:  # perhaps a limit on the number of jobs: again when one has ended
                    self._say_once(planned.hash, f"{plan.title(index)}: not submitted yet: {safe_text(error)}")
                    return
                self._finish(index, RunResult("", "FAILED", error=f"not submitted: {safe_text(error)}"))
                continue
            self._waiting[index] = job_id
            plan.set_slurm_id(index, job_id)
            self._terminal.say(f"{plan.title(index)}: Slurm job {job_id}")

    def _collect(self) -> None:
        """Takes the results of the jobs that have ended."""
        if not self._waiting:
            return
        states = self._states()
        for index, job_id in list(self._waiting.items()):
            state = states.get(job_id)
            result: RunResult | None = self._submitter.result(job_id)
            if result is None and state is not None and state.has_ended and self._is_over(job_id, state):
                result = result_of(
                    job_id, state, self._submitter.last_line(job_id) if state.nodes else "", self._plan.store
                )
            if result is not None and result.error == BY_SIGTERM and state is not None:
                if not state.has_ended:
                    continue  # its process has ended, and Slurm will say why
                result = with_cause(result, job_id, state, self._plan.store)
            if result is not None:
                del self._waiting[index]
                self._finish(index, result)
            elif state is not None and state.waits_for:
                self._say_once(job_id, f"{self._plan.title(index)}: Slurm job {job_id} waits: {state.waits_for}")

    def _states(self) -> dict[str, JobState]:
        try:
            return slurm.states_of(list(self._waiting.values()))
        except SlurmError as error:
            self._say_once("", f"warning: Slurm does not answer ({safe_text(error)}); asking again")
            return {}

    def _is_over(self, job_id: str, state: JobState) -> bool:
        """Whether no result will appear any more. One that never started has none."""
        first_s = self._ended_s.setdefault(job_id, time.monotonic())
        return not state.nodes or time.monotonic() - first_s >= GRACE_S

    def _finish(self, index: int, result: RunResult) -> None:
        self._results[index] = result
        job = self._plan.jobs[index]
        if result.status == NOT_APPLICABLE:
            self._plan.rule_out(job.arm, result.error)
            return
        if result.status == "FINISHED":
            self._terminal.say(f"{self._plan.title(index)}: finished")
        else:
            self._plan.report_failure(index, result)
        self._plan.show_results_so_far()

    def _sleep(self, job_ids: Sequence[str]) -> None:
        """Waits until one of these jobs has returned a result, or it is time to ask Slurm again."""
        deadline = time.monotonic() + QUERY_S
        while time.monotonic() < deadline:
            time.sleep(LOOK_S)
            if any(self._submitter.result(job_id) is not None for job_id in job_ids):
                return

    def _say_once(self, key: str, text: str) -> None:
        if self._reasons.get(key) != text:
            self._reasons[key] = text
            self._terminal.say(text)

    def _checked(self, loaders: Sequence[ComparedLoader]) -> dict[str, dict[str, Any]]:
        """The result of each loader's check, by its key, from a Slurm job."""
        configs = {loader.name: loader.config for loader in loaders}
        try:
            self._parity_id = self._submitter.submit(
                slurm_entry.check_submitted, configs, name="loaderlab-parity", comment=self._comment(PARITY)
            )
            results, why = self._awaited(self._parity_id)
        except SlurmError as error:
            results, why = None, safe_text(error)
        self._parity_id = ""
        if results is None:
            results = {name: {"status": f"{NOT_CHECKED}: {why}"} for name in configs}
        return {loader.key: {"loader": loader.name, **results[loader.name]} for loader in loaders}

    def _awaited(self, job_id: str) -> tuple[Any, str]:
        """What a Slurm job returned; otherwise None, and why it returned nothing."""
        while True:
            self._sleep([job_id])
            state = slurm.states_of([job_id])[job_id]
            if (result := self._submitter.result(job_id)) is not None:
                return result, ""
            if state.has_ended and self._is_over(job_id, state):
                return None, f"{state}: {self._submitter.last_line(job_id)}"

    def _warn_of_sqlite(self) -> None:
        """Says what to type if several hosts would write an SQLite file: its locks are not reliable on a shared file system."""
        others = slurm.node_hosts(self._sweep.slurm.partition) - {socket.gethostname()}
        if self._plan.store.is_file and others:
            self._terminal.warn(
                f"several nodes write the SQLite file {self._plan.store.uri} over a shared file system, which may lose or damage "
                f"records. Start a server with {command('server')}, and add its tracking.uri=http://… to this command"
            )
