"""Real multiruns as a user starts them: fresh processes, a job that fails, Ctrl-C, SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from PIL import Image

from loaderlab.config import PROJECT as ROOT
from loaderlab.runs.sweep_jobs import varying

TRAIN = [sys.executable, "-m", "experiments.train"]


@pytest.fixture
def common(store_uri: str, image_tree: Path) -> list[str]:
    return [
        f"tracking.uri={store_uri}",
        "tracking.experiment=sweeps",
        "device=cpu",
        "data=imagefolder",
        f"data.root={image_tree}",
        "data.transform.image_size=16",
        "data.transform.resize=16",
        "batch_size=4",
        "measure=bare",
    ]


def runs(uri: str) -> tuple[Run, list[Run]]:
    """The parent and its children in order of their start."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("sweeps")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    parent, *children = found
    assert all(child.data.tags["mlflow.parentRunId"] == parent.info.run_id for child in children)
    return parent, children


def test_a_multirun_with_a_job_that_fails(common: list[str], store_uri: str, own_tree: Path) -> None:
    Image.new("RGB", (40, 40)).save(own_tree / "bee" / "bitmap.bmp")  # which DALI reads and torchcodec does not
    command = [*TRAIN, "-m", "loader=native,dali", "epochs=3", *common, f"data.root={own_tree}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    parent, children = runs(store_uri)
    assert parent.info.status == "FAILED"
    assert parent.info.run_name == "sweep loader=native,dali"
    native, dali = children
    assert [(run.info.run_name, run.info.status) for run in children] == [
        ("loader=native", "FAILED"),
        ("loader=dali", "FINISHED"),
    ]
    assert len({run.data.tags["process.pid"] for run in (parent, native, dali)}) == 3  # a process each
    assert "rate/samples_per_s" in dali.data.metrics
    assert "bitmap.bmp" in native.data.tags["error"]
    assert dali.data.tags["parity"] == "same work"
    assert native.data.tags["parity"].startswith("not checked: ")
    assert "bitmap.bmp" in parent.data.tags["parity"]
    assert "  loader=dali: same work: 19 samples x 3 epochs in batches of 4, " in done.stdout
    assert "traceback.txt" in {entry.path for entry in MlflowClient(store_uri).list_artifacts(native.info.run_id)}
    assert "1 of 2 jobs did not finish" in done.stderr
    assert "Traceback" not in done.stderr
    assert f"-m resume={parent.info.run_id}" in done.stderr
    end = done.stdout[done.stdout.index("One arm: ") :]
    assert "not measured: loader=native: failed: " in end
    assert f"mlflow ui --backend-store-uri {store_uri}" in end
    assert "not measured" in parent.data.tags["mlflow.note.content"]
    client = MlflowClient(store_uri)
    made = {Path(entry.path).name for entry in client.list_artifacts(parent.info.run_id, "comparison")}
    assert {"report.html", "comparison.csv", "comparison.json", "comparison.md", "comparison.png"} <= made
    assert "machine/busy_pct" in dali.data.metrics
    assert not (ROOT / "multirun.yaml").exists()  # Hydra's own record goes where git does not look


@contextmanager
def long_sweep(common: list[str], out: Path, axes: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A sweep whose jobs would take minutes, in a process group of its own, one of its jobs in the loop."""
    with out.open("w") as file:
        process = subprocess.Popen(
            [*TRAIN, "-m", *axes, *common],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while "optimizer" not in out.read_text():  # the last of a job's first lines
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.2)
        time.sleep(1.5)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def gone(group: int) -> bool:
    """Whether every process of a group ends within a minute."""
    deadline = time.monotonic() + 60
    while left_over(group) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left_over(group) == []


def left_over(group: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _belongs(process, group)]


def _belongs(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False  # it has just ended


def test_killed_then_gone_on_with_then_interrupted(common: list[str], store_uri: str, tmp_path: Path) -> None:
    """SIGKILL of the launching process: its job ends, and the next start tells the truth. Ctrl-C: all is kept.

    That finished jobs are not run again is tested in test_sweep_plan.py, and for real in benchmarks/killed_sweep.py.
    """
    with long_sweep(common, tmp_path / "killed.txt", ["seed=1,2", "epochs=100000", "evaluate=false"]) as process:
        process.kill()
        process.wait()
        assert gone(process.pid)  # the job noticed that nobody waits for it
    parent, children = runs(store_uri)
    assert (parent.info.status, [child.info.status for child in children]) == ("RUNNING", ["KILLED"])
    store = [text for text in common if text.startswith("tracking.")]
    with long_sweep(store, tmp_path / "out.txt", ["resume=latest"]) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody in the foreground
        assert process.wait(60) == 130
    said = (tmp_path / "out.txt").read_text()
    assert f"resumed {parent.info.run_id}: 0 of 2 jobs are done" in said
    assert "interrupted: what was recorded before is kept" in said
    assert "Traceback" not in said
    assert gone(process.pid)
    again, children = runs(store_uri)
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "KILLED")
    assert [child.info.status for child in children] == ["KILLED", "KILLED"]
    first, second = children
    assert first.data.tags["config.hash"] == second.data.tags["config.hash"]
    assert second.data.tags["loader.in_force.start_method"] == "fork"  # not handed down from the spawned job
    assert f"to go on: python -m experiments.train -m resume={parent.info.run_id} {' '.join(store)}" in said
    assert "train/loss" in second.data.metrics
    assert "interrupted by" in second.data.tags["error"]


def test_names_are_what_differs() -> None:
    jobs = [
        ["loader=native", "epochs=2", "repeat=1"],
        ["loader=dali", "epochs=2", "repeat=1"],
        ["loader=dali", "epochs=2", "repeat=2"],
    ]
    assert varying(jobs) == [
        ["loader=native", "repeat=1"],
        ["loader=dali", "repeat=1"],
        ["loader=dali", "repeat=2"],
    ]
    assert varying([["loader=dali"]]) == [[]]
