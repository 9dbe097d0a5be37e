"""The record of a run whose Slurm job ended without a result, or without saying why."""

from __future__ import annotations

from pathlib import Path

import pytest

from loaderlab.config import TrackingConfig
from loaderlab.runs.job import RunResult
from loaderlab.runs.slurm_end import result_of, with_cause
from loaderlab.system.slurm import JobState
from loaderlab.tracking import open_store
from loaderlab.tracking.records import RunRecord
from loaderlab.tracking.store import Store


@pytest.fixture
def store(store_uri: str, tmp_path: Path) -> Store:
    return open_store(TrackingConfig(uri=store_uri), tmp_path)


def recorded(store: Store, run_id: str) -> RunRecord:
    run = store.run(run_id)
    assert run is not None
    return run


def test_a_run_on_a_node_that_failed_is_closed(store: Store) -> None:
    run = store.start("job", None, {"slurm.job_id": "7", "process.host": "n2"})
    store.close_dead_runs()
    assert recorded(store, run.run_id).status == "RUNNING"  # its process is on another host
    why = "its node failed on n2 (NODE_FAIL): the last line"
    assert result_of("7", JobState("NODE_FAIL", nodes="n2"), "the last line", store) == RunResult(
        run.run_id, "KILLED", error=why
    )
    assert (recorded(store, run.run_id).status, recorded(store, run.run_id).tags["error"]) == ("KILLED", why)


def test_a_finished_run_keeps_its_status(store: Store) -> None:
    run = store.start("job", None, {"slurm.job_id": "7"})
    run.end("FINISHED")
    result = result_of("7", JobState("FAILED", nodes="n2"), "an error while the process ended", store)
    assert (result.run_id, result.status) == (run.run_id, "FINISHED")


def test_a_job_without_a_run(store: Store) -> None:
    cancelled = result_of("7", JobState("CANCELLED", "CANCELLED by 1000"), "", store)
    assert cancelled == RunResult("", "KILLED", error="cancelled in Slurm (CANCELLED by 1000)")
    failed = result_of("8", JobState("FAILED", nodes="n2"), "node n2 has no /data", store)
    assert failed == RunResult("", "FAILED", error="its process failed (FAILED) on n2: node n2 has no /data")


def test_a_preempted_run_says_so(store: Store) -> None:
    run = store.start("job", None, {"slurm.job_id": "7", "error": "interrupted by SIGTERM"})
    run.end("KILLED")
    interrupted = RunResult(run.run_id, "KILLED", error="interrupted by SIGTERM")
    why = "preempted by Slurm (PREEMPTED), with SIGTERM"
    assert with_cause(interrupted, "7", JobState("PREEMPTED", nodes="n1"), store).error == why
    assert recorded(store, run.run_id).tags["error"] == why
    assert with_cause(interrupted, "7", JobState("COMPLETED", nodes="n1"), store) == interrupted
