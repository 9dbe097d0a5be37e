"""Sweeps in a real Slurm with two nodes: jobs that finish, are cancelled, lose their launching process, or lack files."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.cluster.slurm_on_host import Cluster
from tests.cluster.sweeps import LONG, Command, Recorded, on_slurm, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]
CANCELLED = "cancelled in Slurm (CANCELLED)"
SMALL = "batch_size=4"
EIGHT_SECONDS = ["steps=800", "accelerator=custom", "accelerator.step_ms=10"]  # on every machine


@pytest.fixture
def common(store_uri: str, image_tree: Path, tmp_path: Path) -> list[str]:
    return ["-m", *settings(store_uri, image_tree), *on_slurm(tmp_path / "jobs")]


def printed(folder: Path, num_jobs: int) -> list[str]:
    """What each job has printed; empty texts for those that have not started."""
    texts = [path.read_text() for path in folder.glob("*/*_log.out")]
    return texts + (num_jobs - len(texts)) * [""]


def test_six_jobs_one_cancelled_the_launcher_killed_and_resumed(
    cluster: Cluster, common: list[str], store_uri: str, tmp_path: Path, command: Command
) -> None:
    """Each job appears exactly once, with its true status."""
    names = [f"emulated custom repeat={repeat} batch_size={size}" for repeat in (1, 2, 3) for size in (4, 8)]
    command.start("repeat=1,2,3", "batch_size=4,8", *EIGHT_SECONDS, "sweep.jobs_at_once=2", *common)
    command.await_that(lambda: all("\ntraining " in text for text in printed(tmp_path / "jobs", 2)))
    ids = cluster.job_ids("RUNNING")
    assert len(ids) == len(cluster.job_ids("RUNNING", "PENDING")) == 2  # not more at once
    command.send(signal.SIGKILL)
    cluster.ask("scancel", ids[1])
    command.exit_code()
    command.await_that(lambda: cluster.num_idle == 2)
    before = Recorded(store_uri)  # the other job has finished without its launcher
    assert [before.jobs[name].slurm_id for name in names[:2]] == ids
    assert before.statuses == sorted([(names[0], "FINISHED"), (names[1], "KILLED")])
    assert before.run(names[1]).data.tags["error"] == f"{CANCELLED}, with SIGTERM"
    assert "rate/samples_per_s" in before.run(names[1]).data.metrics  # what it had measured is kept

    tracking = [text for text in common if text.startswith("tracking.")]
    command.start("-m", "resume=latest", *tracking)
    assert command.exit_code() == 1, command.printed
    after = Recorded(store_uri)
    assert after.statuses == sorted((name, "KILLED" if name == names[1] else "FINISHED") for name in names)
    assert after.parent.info.status == "FAILED"
    assert f"1 of 6 jobs did not finish: {names[1]}" in command.printed
    assert f"{names[1]}: killed: {CANCELLED}, with SIGTERM" in command.printed
    assert {run.data.tags["node"] for run in after.children} == {"n1", "n2"}
    assert {run.data.tags["process.host"] for run in after.children} == {"n1", "n2"}
    assert sorted(run.data.tags["slurm.job_id"] for run in after.children) == sorted(cluster.job_ids())
    note = after.parent.data.tags["mlflow.note.content"]
    assert "the runs were measured on 2 nodes, and the spread includes how these differ: n1, n2" in note


def test_a_job_cancelled_while_it_waits_and_one_at_its_time_limit(
    cluster: Cluster, common: list[str], store_uri: str, command: Command
) -> None:
    limits = ["sweep.slurm.minutes=1", "sweep.slurm.options=nodelist:n1", "sweep.jobs_at_once=2"]
    command.start("repeat=1,2", LONG, SMALL, *common, *limits)
    command.await_that(lambda: cluster.job_ids("RUNNING") and cluster.job_ids("PENDING"))
    cluster.ask("scancel", *cluster.job_ids("PENDING"))
    assert command.exit_code() == 1, command.printed
    recorded = Recorded(store_uri)
    assert recorded.jobs["repeat=2"].ended == f"killed: {CANCELLED}"  # it has no run
    assert recorded.statuses == [("repeat=1", "KILLED")]
    end = "ended shortly before Slurm's time limit, sweep.slurm.minutes=1"
    assert recorded.run("repeat=1").data.tags["error"] == end
    assert "rate/samples_per_s" in recorded.run("repeat=1").data.metrics


def test_ctrl_c_leaves_the_jobs_in_slurm(cluster: Cluster, common: list[str], store_uri: str, command: Command) -> None:
    command.start("repeat=1,2", LONG, SMALL, "sweep.jobs_at_once=2", *common)
    command.await_that(lambda: command.printed.count(": Slurm job ") == 2 and len(cluster.job_ids("RUNNING")) == 2)
    command.send(signal.SIGINT)
    assert command.exit_code() == 130, command.printed
    ids = sorted(cluster.job_ids("RUNNING"))
    assert len(ids) == 2
    assert f"2 Slurm jobs still run or wait. To cancel them: scancel {' '.join(ids)}" in command.printed
    run_id = Recorded(store_uri).parent.info.run_id
    assert re.search(f"to continue: .* -m resume={run_id} ", command.printed)
    tracking = [text for text in common if text.startswith("tracking.")]
    command.start("-m", "resume=latest", "sweep.on=local", "sweep.jobs_at_once=1", *tracking)
    assert command.exit_code() == 2, command.printed
    assert f"its Slurm jobs {', '.join(ids)} still run or wait. Type: sweep.on=slurm" in command.printed


def test_a_node_without_the_files_and_a_partition_that_does_not_exist(
    cluster: Cluster, common: list[str], store_uri: str, image_tree: Path, command: Command
) -> None:
    data = cluster.not_on_n2 / "images"
    shutil.copytree(image_tree, data)
    lacking = [f"data.root={data}", "sweep.slurm.options=nodelist:n2", "sweep.jobs_at_once=2"]
    command.start("repeat=1,2", LONG, SMALL, *common, *lacking)
    assert command.exit_code() == 1, command.printed
    recorded = Recorded(store_uri)
    assert recorded.children == []
    assert recorded.jobs["repeat=1"].ended == f"failed: its process failed (FAILED) on n2: node n2 has no {data}"

    command.start("seed=1,2", LONG, SMALL, *common, "sweep.slurm.partition=nosuch")
    assert command.exit_code() == 2, command.printed
    line = "sbatch --nodes=1 --ntasks-per-node=1 --no-requeue --time=5 --partition=nosuch"
    assert f"The submitted line: {line}. No job was started" in command.printed
    assert "invalid partition specified: nosuch" in command.printed
    assert Recorded(store_uri).parent.info.run_id == recorded.parent.info.run_id  # there is no other sweep
