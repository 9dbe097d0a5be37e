"""Real multiruns as a user starts them: fresh processes, a job that fails, Ctrl-C, SIGKILL."""

from __future__ import annotations

import os
import re
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
    recorded = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    parent, *children = recorded
    assert all(child.data.tags["mlflow.parentRunId"] == parent.info.run_id for child in children)
    return parent, children


def test_a_multirun_with_a_failing_job(common: list[str], store_uri: str, own_tree: Path) -> None:
    Image.new("RGB", (40, 40)).save(own_tree / "bee" / "bitmap.bmp")  # DALI reads it, torchcodec does not
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
    assert len({run.data.tags["process.pid"] for run in (parent, native, dali)}) == 3  # each in its own process
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
    last_lines = done.stdout[done.stdout.index("Only one arm: ") :]
    assert "not measured: loader=native: failed: " in last_lines
    assert f"mlflow ui --backend-store-uri {store_uri}" in last_lines
    assert "Not measured" in parent.data.tags["mlflow.note.content"]
    client = MlflowClient(store_uri)
    files = {Path(entry.path).name for entry in client.list_artifacts(parent.info.run_id, "comparison")}
    assert {"report.html", "comparison.csv", "comparison.json", "comparison.md", "comparison.png"} <= files
    assert "machine/busy_pct" in dali.data.metrics
    assert not (ROOT / "multirun.yaml").exists()  # Hydra writes its record to a folder that git ignores


@contextmanager
def long_sweep(common: list[str], out: Path, axes: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A sweep of jobs that would take minutes, in its own process group, while a job trains."""
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


def ends_within_a_minute(group: int) -> bool:
    """Whether every process of a group ends within a minute."""
    deadline = time.monotonic() + 60
    while remaining_processes(group) and time.monotonic() < deadline:
        time.sleep(0.2)
    return remaining_processes(group) == []


def remaining_processes(group: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _belongs(process, group)]


def _belongs(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False  # it has just ended


def test_a_sweep_killed_then_resumed_then_interrupted(common: list[str], store_uri: str, tmp_path: Path) -> None:
    """After SIGKILL of the launching process its job ends, and the next command corrects its status. Ctrl-C loses nothing.

    That finished jobs do not run again is tested in test_sweep_jobs.py, and with real jobs in benchmarks/killed_sweep.py.
    """
    with long_sweep(common, tmp_path / "killed.txt", ["seed=1,2", "epochs=100000", "evaluate=false"]) as process:
        process.kill()
        process.wait()
        assert ends_within_a_minute(process.pid)  # the job ends with its parent
    parent, children = runs(store_uri)
    assert (parent.info.status, [child.info.status for child in children]) == ("RUNNING", ["KILLED"])
    store = [text for text in common if text.startswith("tracking.")]
    with long_sweep(store, tmp_path / "out.txt", ["resume=latest"]) as process:
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole foreground group
        assert process.wait(60) == 130
    output = (tmp_path / "out.txt").read_text()
    assert f"resumed {parent.info.run_id}: 0 of 2 jobs are done" in output
    assert "interrupted: everything recorded so far is kept" in output
    assert "Traceback" not in output
    assert ends_within_a_minute(process.pid)
    resumed, children = runs(store_uri)
    assert (resumed.info.run_id, resumed.info.status) == (parent.info.run_id, "KILLED")
    assert [child.info.status for child in children] == ["KILLED", "KILLED"]
    first, second = children
    assert first.data.tags["config.hash"] == second.data.tags["config.hash"]
    assert second.data.tags["loader.in_force.start_method"] == "fork"  # not inherited from the spawned job
    assert f"to continue: python -m experiments.train -m resume={parent.info.run_id} {' '.join(store)}" in output
    assert "train/loss" in second.data.metrics
    assert "interrupted by" in second.data.tags["error"]


def test_job_names_are_the_overrides_that_differ() -> None:
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


SIGNALS = [
    pytest.param([signal.SIGINT], 130, "interrupted by Ctrl-C", id="ctrl-c"),
    pytest.param([signal.SIGTERM], 143, "interrupted by SIGTERM", id="sigterm", marks=pytest.mark.slow),
    pytest.param([signal.SIGUSR1], -signal.SIGUSR1, "time limit|SIGTERM", id="sigusr1", marks=pytest.mark.slow),
    pytest.param([signal.SIGINT] * 2, 130, "", id="ctrl-c twice", marks=pytest.mark.slow),
    pytest.param(
        [signal.SIGKILL, signal.SIGINT], 130, "interrupted by Ctrl-C", id="killed template", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("numbers", "exit_code", "cause"), SIGNALS)
def test_a_signal_to_all_processes_of_a_sweep_with_a_template(
    numbers: list[signal.Signals], exit_code: int, cause: str, common: list[str], store_uri: str, tmp_path: Path
) -> None:
    """No process is left and no record is lost, whichever process gets the signal first. SIGKILL is for the template alone."""
    axes = ["loader.num_workers=0,1", "epochs=100000", "evaluate=false"]
    with long_sweep(common, tmp_path / "out.txt", axes) as process:
        (template,) = [
            child for child in psutil.Process(process.pid).children() if "forkserver" in " ".join(child.cmdline())
        ]
        for number in numbers:
            if number == signal.SIGKILL:
                template.kill()
            else:
                os.killpg(process.pid, number)
            time.sleep(0.5)
        assert process.wait(60) == exit_code
        assert ends_within_a_minute(process.pid)
    parent, children = runs(store_uri)
    (job,) = children
    assert job.data.tags["process.start"] == "template"
    assert job.info.status == "KILLED"
    # written by the job; a second Ctrl-C ends it at once. After SIGUSR1 it may first notice the end of its launcher
    assert re.search(cause, job.data.tags.get("error", ""))
    assert parent.info.status == ("RUNNING" if exit_code == -signal.SIGUSR1 else "KILLED")
    assert "Traceback" not in (tmp_path / "out.txt").read_text()
