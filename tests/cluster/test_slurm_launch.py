"""A job of several ranks on two nodes of a real Slurm."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.cluster.slurm_on_host import Cluster
from tests.cluster.sweeps import LONG, Command, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]


@pytest.fixture
def common(store_uri: str, image_tree: Path, tmp_path: Path) -> list[str]:
    launch = ["launch=slurm", "launch.num_nodes=2", f"launch.folder={tmp_path / 'jobs'}", "launch.minutes=5"]
    return [*settings(store_uri, image_tree), *launch, "batch_size=4"]


def only_run(uri: str) -> Run:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("cluster")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def without_end(folder: Path) -> list[str]:
    """The overrides of a training that a test has to end. `trains` sees its checkpoints."""
    return [LONG, f"checkpoint.dir={folder / 'checkpoints'}", "checkpoint.every_minutes=0.01"]


def trains(command: Command, folder: Path) -> bool:
    """Whether the job trains, and its output so far is printed while it does."""
    return any(folder.glob("checkpoints/**/*.pt")) and "\noptimizer " in command.printed


def test_a_job_on_two_nodes(cluster: Cluster, common: list[str], store_uri: str, command: Command) -> None:
    command.start("steps=100", *common)
    assert command.exit_code() == 0, command.printed
    run = only_run(store_uri)
    assert run.info.status == "FINISHED"
    places = run.data.tags["nodes"].split(
        ", "
    )  # by rank: torch sorts agents by host and process, and both run on one host here
    assert sorted(places) == ["n1", "n2"]
    assert run.data.metrics["ranks/count"] == 2
    assert [run.data.tags["slurm.job_id"]] == cluster.job_ids()
    text = command.printed
    assert f"ranks     2 (1 on {places[0]}, 1 on {places[1]}), global batch 8" in text
    assert text.count("waiting for 2 nodes") == 1  # both nodes print it
    last_progress, last_line = "training 100/100 ", "side by side: "  # of rank 0
    assert text.index("optimizer ") < text.index(last_progress) < text.index("throughput") < text.index(last_line)
    assert text[text.index(last_line) :].count("\n") == 1


def test_a_job_cancelled_with_scancel(
    cluster: Cluster, common: list[str], store_uri: str, command: Command, tmp_path: Path
) -> None:
    command.start(*common, *without_end(tmp_path), "loader.num_workers=1")
    command.await_that(lambda: trains(command, tmp_path))
    cluster.ask("scancel", *cluster.job_ids("RUNNING"))
    assert command.exit_code() == 1, command.printed
    run = only_run(store_uri)
    assert (run.info.status, run.data.tags["error"]) == ("KILLED", "cancelled in Slurm (CANCELLED), with SIGTERM")
    assert "error: cancelled in Slurm (CANCELLED), with SIGTERM" in command.printed
    assert "Traceback" not in command.printed


def test_ctrl_c_cancels_the_slurm_job(
    cluster: Cluster, common: list[str], store_uri: str, command: Command, tmp_path: Path
) -> None:
    command.start(*common, *without_end(tmp_path))
    command.await_that(lambda: trains(command, tmp_path))
    command.send(signal.SIGINT)
    assert command.exit_code() == 130, command.printed
    run = only_run(store_uri)
    assert (run.info.status, run.data.tags["error"]) == ("KILLED", "cancelled in Slurm (CANCELLED), with SIGTERM")
    assert cluster.job_ids("RUNNING", "PENDING") == []
