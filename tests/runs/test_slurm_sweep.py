"""A sweep in a Slurm that the test plays: what is submitted, collected and recorded. No Slurm is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from loaderlab.config import Failed, TrainConfig, UserError
from loaderlab.runs import slurm_submit, slurm_sweep, sweep, sweep_plan
from loaderlab.runs.job import Job, RunResult
from loaderlab.system import slurm
from loaderlab.system.slurm import JobState, SlurmError
from tests.launched import Launched

LIVE = ("PENDING", "RUNNING")


class PlayedSlurm:
    """Replaces Slurm and submitit: a job runs when Slurm is asked about it, as `loaderlab` would in its own process."""

    def __init__(self, launched: Launched) -> None:
        self.states: dict[str, JobState] = {}
        self.results: dict[str, RunResult] = {}
        self.submitted: list[str] = []
        self.most_live = 0
        self.interrupt_after = 100
        self._launched = launched
        self._waiting: dict[str, tuple[TrainConfig, Job]] = {}

    def submit(self, _self: Any, _function: Any, config: TrainConfig, job: Job, *, name: str, comment: str) -> str:
        job_id = str(len(self.submitted) + 1)
        self.submitted.append(job.name)
        self.states[job_id] = JobState("PENDING", comment=comment)
        self._waiting[job_id] = (config, job)
        self.most_live = max(self.most_live, sum(state.state in LIVE for state in self.states.values()))
        return job_id

    def states_of(self, job_ids: list[str]) -> dict[str, JobState]:
        if self.interrupt_after == 0:
            raise KeyboardInterrupt
        self.interrupt_after -= 1
        self.run_one()
        return {job_id: self.states[job_id] for job_id in job_ids}

    def run_one(self) -> None:
        """Runs the job that waits longest."""
        if not self._waiting:
            return
        job_id = next(iter(self._waiting))
        config, job = self._waiting.pop(job_id)
        if "LOST" in self._launched.ends.get(job.name, ""):
            self.states[job_id] = JobState("CANCELLED", "CANCELLED by 1000")
            return
        self.results[job_id] = self._launched(config, job, None, "slurm")  # type: ignore[arg-type]
        self.states[job_id] = JobState("COMPLETED", nodes="n1", comment=self.states[job_id].comment)


@pytest.fixture
def played(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> PlayedSlurm:
    fake = PlayedSlurm(launched)
    submitter = slurm_submit.Submitter
    monkeypatch.setattr(slurm_sweep, "check_slurm", lambda *_: None)
    monkeypatch.setattr(slurm_sweep, "QUERY_S", 0.0)
    monkeypatch.setattr(submitter, "submit", lambda *args, **names: fake.submit(*args, **names))
    monkeypatch.setattr(submitter, "result", lambda _self, job_id: fake.results.get(job_id))
    monkeypatch.setattr(submitter, "was_sent", lambda _self, job_id: job_id in fake.states)
    monkeypatch.setattr(slurm, "own_jobs", lambda: fake.states)
    monkeypatch.setattr(slurm, "states_of", fake.states_of)
    monkeypatch.setattr(slurm, "node_hosts", lambda _partition: set())
    return fake


@pytest.fixture
def jobs(make_config: Callable[..., TrainConfig]) -> list[tuple[TrainConfig, list[str]]]:
    planned = []
    for seed in (1, 2):
        for repeat in (1, 2, 3):
            own = [f"repeat={repeat}", f"batch_size={4 * seed}"]
            planned.append((make_config(*own, "sweep.on=slurm", "sweep.jobs_at_once=2"), own))
    return planned


def test_jobs_are_submitted_interleaved_and_few_at_once(played: PlayedSlurm, jobs: list[Any]) -> None:
    sweep.run_sweep(jobs, [])
    assert played.submitted == [f"repeat={repeat} batch_size={size}" for repeat in (1, 2, 3) for size in (4, 8)]
    assert played.most_live == 2


def test_a_resumed_sweep_submits_no_job_twice(played: PlayedSlurm, jobs: list[Any], launched: Launched) -> None:
    launched.ends["repeat=1 batch_size=8"] = "LOST"
    played.interrupt_after = 1
    with pytest.raises(KeyboardInterrupt):
        sweep.run_sweep(jobs, [])
    assert len(played.submitted) == 3
    played.run_one()  # it is cancelled without a launcher
    played.interrupt_after = 100
    with pytest.raises(Failed, match="1 of 6 jobs did not finish: repeat=1 batch_size=8"):
        sweep.run_sweep(jobs, [], "latest")
    assert sorted(played.submitted) == sorted(f"repeat={r} batch_size={s}" for r in (1, 2, 3) for s in (4, 8))
    # the sweep has ended, and what failed is known: now it runs again
    launched.ends.clear()
    sweep.run_sweep(jobs, [], "latest")
    assert played.submitted[6:] == ["repeat=1 batch_size=8"]


def test_a_job_whose_id_was_not_recorded_is_recognised(
    played: PlayedSlurm, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the launcher was killed after a submission and before it could record the job's id."""
    played.interrupt_after = 0
    with monkeypatch.context() as patch:
        patch.setattr(sweep_plan.SweepPlan, "set_slurm_id", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            sweep.run_sweep(jobs, [])
    played.interrupt_after = 100
    sweep.run_sweep(jobs, [], "latest")
    assert len(played.submitted) == 6


def test_a_check_of_loaders_that_cannot_be_cancelled_is_left(
    played: PlayedSlurm, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parents, asked = list[str](), list[list[str]]()

    def interrupted(self: slurm_sweep.SlurmSweep) -> None:
        parents.append(self._plan.parent.run_id)
        self._parity_id = "99"
        raise KeyboardInterrupt

    def refuses(command: list[str]) -> str:
        asked.append(command)
        raise SlurmError("Unable to contact slurm controller")

    monkeypatch.setattr(slurm, "ask", refuses)
    with monkeypatch.context() as patch:
        patch.setattr(slurm_sweep.SlurmSweep, "_adopt", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep.run_sweep(jobs, [])
    played.states["99"] = JobState("RUNNING", comment=f"loaderlab:{parents[0]}:parity")
    sweep.run_sweep(jobs, [], "latest")
    assert asked == [["scancel", "99"]] * 2
    assert len(played.submitted) == 6


def test_local_jobs_at_once_are_refused(make_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(UserError, match="sweep.jobs_at_once=2: jobs on one machine would slow each other down"):
        make_config("sweep.jobs_at_once=2")
    with pytest.raises(UserError, match="launch=slurm already submits each job"):
        make_config("launch=slurm", "sweep.on=slurm")
    with pytest.raises(UserError, match="sweep.slurm.options=time:3: time is set by loaderlab itself"):
        make_config("sweep.slurm.options=time:3")


def test_a_refused_submission_waits_for_a_job_to_end(
    played: PlayedSlurm, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a limit on the number of submitted jobs."""

    def submit(*args: Any, **names: Any) -> str:
        if sum(state.state in LIVE for state in played.states.values()) >= 1:
            raise SlurmError("QOSMaxSubmitJobPerUserLimit")
        return played.submit(*args, **names)

    monkeypatch.setattr(slurm_submit.Submitter, "submit", submit)
    sweep.run_sweep(jobs, [])
    assert len(played.submitted) == 6
    assert played.most_live == 1
