"""Runs a job of several ranks on nodes that Slurm allocates, and prints its output here."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from loaderlab.config import SlurmLaunch, TrainConfig, UserError, store_root
from loaderlab.runs import slurm_entry
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.slurm_end import result_of
from loaderlab.runs.slurm_submit import Allocation, Submitter, check_slurm, needed_paths
from loaderlab.system import slurm
from loaderlab.system.causes import safe_text
from loaderlab.system.processes import sigterm_raises
from loaderlab.system.slurm import JobState, SlurmError
from loaderlab.system.terminal import Terminal

LOOK_S = 0.5  # between two looks at the output
QUERY_S = 10.0  # between two questions to Slurm
GRACE_S = 10.0  # for results of a job that has ended to appear on a shared file system
CANCEL_S = 90.0  # for the ranks of a cancelled job to write their record


def run_on_slurm(config: TrainConfig, job: Job, terminal: Terminal) -> RunResult:
    """Submits the job, prints what it prints, and returns its result.

    Raises:
        UserError: Slurm is missing or refuses the job.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the Slurm job is cancelled and recorded as KILLED.
    """
    launch = config.launch
    assert isinstance(launch, SlurmLaunch)
    cpus = None if launch.cpus_per_rank is None else launch.cpus_per_rank * launch.num_node_ranks
    allocation = Allocation(launch, launch.num_nodes, cpus, launch.gpus_per_node, needed_paths([config]))
    check_slurm("launch=slurm", "launch=local", allocation)
    submitter = Submitter(Path(launch.folder), allocation)
    with sigterm_raises():
        try:
            job_id = submitter.submit(slurm_entry.run_node, config, job, name="loaderlab", comment="loaderlab")
        except SlurmError as error:
            raise UserError(f"launch=slurm: Slurm refuses the job: {safe_text(error)}") from None
        nodes = f"{launch.num_nodes} node{'s' * (launch.num_nodes > 1)}"
        terminal.say(f"{'slurm':<10}job {job_id} on {nodes}; its output is also in {submitter.folder}")
        followed = _Followed(submitter, job_id, launch.num_nodes, terminal)
        try:
            return followed.result(config)
        except KeyboardInterrupt:
            terminal.say(f"cancelling Slurm job {job_id}")
            with suppress(SlurmError):
                slurm.ask(["scancel", job_id])
            followed.await_end(CANCEL_S)
            raise


class _Followed:
    """A Slurm job with one task per node, whose output is printed here."""

    def __init__(self, submitter: Submitter, job_id: str, num_tasks: int, terminal: Terminal) -> None:
        self._submitter, self._job_id, self._terminal = submitter, job_id, terminal
        self._tasks = range(num_tasks)
        self._positions = dict.fromkeys(self._tasks, 0)  # bytes of each task's output that are printed
        self._said: dict[str, int] = {}  # the task that printed a line first
        self._reason = ""
        self._queried_s = 0.0

    def result(self, config: TrainConfig) -> RunResult:
        """The result of the job, after it has ended."""
        state = self.await_end()
        returned: list[RunResult] = [
            result for task in self._tasks if (result := self._submitter.result(self._job_id, task)) is not None
        ]
        recorded = next((result for result in returned if result.run_id), None)
        if recorded is not None and (recorded.status != "FINISHED" or len(returned) == len(self._tasks)):
            return recorded
        if recorded is None and (failed := next((result for result in returned if result.error), None)):
            return failed
        if state is None:  # all have returned
            return returned[0]
        from loaderlab.tracking import open_store

        if state.state == slurm.GONE:
            state = self._submitter.state_in_output(self._job_id) or state
        last_line = self._submitter.last_line(self._job_id)
        return result_of(self._job_id, state, last_line, open_store(config.tracking, store_root()))

    def await_end(self, seconds: float = float("inf")) -> JobState | None:
        """Prints the job's output until all of its tasks have returned, or Slurm says that it has ended. Its state then, None if all
        have returned."""
        state = self._awaited(seconds)
        self._print_output(has_ended=True)
        return state

    def _awaited(self, seconds: float) -> JobState | None:
        until, ended_s, state = time.monotonic() + seconds, 0.0, JobState("PENDING")
        while time.monotonic() < until:
            self._print_output()
            if all(self._submitter.result(self._job_id, task) is not None for task in self._tasks):
                return None
            now = time.monotonic()
            if now - self._queried_s >= QUERY_S:
                self._queried_s = now
                state = self._state() or state
                ended_s = ended_s or (now if state.has_ended else 0.0)
            if ended_s and (not state.nodes or now - ended_s >= GRACE_S):
                return state
            time.sleep(LOOK_S)
        return state

    def _state(self) -> JobState | None:
        with suppress(SlurmError):
            state = slurm.states_of([self._job_id])[self._job_id]
            if state.waits_for and state.waits_for != self._reason:
                self._reason = state.waits_for
                self._terminal.say(f"{'slurm':<10}job {self._job_id} waits: {state.waits_for}")
            return state
        return None

    def _print_output(self, *, has_ended: bool = False) -> None:
        """Prints the lines that the tasks have written since the last call; a line that several print, only once.

        Args:
            has_ended: nothing more is written. Until then, a line without its end is not printed.
        """
        for task in self._tasks:
            try:
                with self._submitter.output(self._job_id, task).open("rb") as file:
                    file.seek(self._positions[task], os.SEEK_SET)
                    text = file.read()
            except OSError:  # not started yet
                continue
            complete = text if has_ended else text[: text.rfind(b"\n") + 1]
            self._positions[task] += len(complete)
            for line in complete.decode(errors="replace").splitlines():
                if not line.startswith("submitit ") and self._said.setdefault(line, task) == task:
                    self._terminal.say(line)
