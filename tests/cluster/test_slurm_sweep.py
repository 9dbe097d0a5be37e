"""Sweeps in a real Slurm with two nodes: jobs that finish, are cancelled, lose their launching process, or lack files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.slurm_on_host import Cluster
from tests.cluster.sweeps import Recorded, await_that, ended, settings, started

pytestmark = pytest.mark.slow


def test_six_jobs_one_cancelled_the_launcher_killed_and_resumed(
    cluster: Cluster, store_uri: str, image_tree: Path, tmp_path: Path
) -> None:
    """Each job appears exactly once, with its true status."""
    common, out = settings(store_uri, image_tree, tmp_path / "jobs"), tmp_path / "out.txt"
    names = [f"repeat={repeat} batch_size={size}" for repeat in (1, 2, 3) for size in (4, 8)]
    launcher = started("repeat=1,2,3", "batch_size=4,8", "steps=800", "sweep.jobs_at_once=2", *common, out=out)
    await_that(lambda: printed(tmp_path / "jobs").count("\ntraining 160/") == 2, out)
    assert len(cluster.job_ids("RUNNING", "PENDING")) == 2  # not more at once
    launcher.kill()
    launcher.wait()
    cluster.ask("scancel", Recorded(store_uri).jobs[names[1]].slurm_id)
    await_that(lambda: cluster.num_idle == 2, out)
    before = Recorded(store_uri)  # the other job has finished without its launcher
    assert before.statuses == sorted([(names[0], "FINISHED"), (names[1], "KILLED")])
    assert before.run(names[1]).data.tags["error"] == "cancelled in Slurm (CANCELLED), with SIGTERM"
    assert "rate/samples_per_s" in before.run(names[1]).data.metrics  # what it had measured is kept

    tracking = [text for text in common if text.startswith("tracking.")]
    assert ended(started("resume=latest", *tracking, out=out), out) == 1, out.read_text()
    after = Recorded(store_uri)
    assert after.statuses == sorted((name, "KILLED" if name == names[1] else "FINISHED") for name in names)
    assert after.parent.info.status == "FAILED"
    assert f"1 of 6 jobs did not finish: {names[1]}" in out.read_text()
    assert f"{names[1]}: killed: cancelled in Slurm (CANCELLED), with SIGTERM" in out.read_text()
    assert {run.data.tags["node"] for run in after.children} == {"n1", "n2"}
    assert {run.data.tags["process.host"] for run in after.children} == {"n1", "n2"}
    assert sorted(run.data.tags["slurm.job_id"] for run in after.children) == sorted(cluster.job_ids())
    note = after.parent.data.tags["mlflow.note.content"]
    assert "the runs were measured on 2 nodes, and the spread includes how these differ: n1, n2" in note


def printed(folder: Path) -> str:
    """What all jobs have printed."""
    return "".join(path.read_text() for path in folder.glob("*/*_log.out"))
