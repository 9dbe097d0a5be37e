"""What a job has that was forked from a template: everything of its launch, and nothing of the jobs before it.

The templates of these tests import only numpy or less; `test_preload.py` tests what a real one imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from loaderlab.config import SPAWN, TEMPLATE
from loaderlab.runs.job_start import JobStarter, Target, planned_start
from tests.runs import jobs_to_start
from tests.runs.test_launch import running_children


class Started:
    """Starts jobs and keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.starter = JobStarter(self.warnings.append, preload="numpy.random")

    def __call__(self, method: str = TEMPLATE, target: Target = jobs_to_start.describe, *args: Any) -> Any:
        """What a job sends."""
        process, receiving = self.starter.start(method, target, args, "a job")
        try:
            sent = receiving.recv()
            process.ended()
            return sent
        finally:
            receiving.close()
            process.close()


@pytest.fixture
def started() -> Iterator[Started]:
    jobs = Started()
    yield jobs
    jobs.starter.renew()
    assert running_children() == []


def test_jobs_share_a_template_and_start_fresh(started: Started) -> None:
    one, other = started(), started()
    assert one["start"] == other["start"] == TEMPLATE
    assert one["template"] == other["template"] == started.starter.template_pid
    assert one["pid"] != other["pid"]
    assert one["random"] != other["random"]
    assert one["numpy"] != other["numpy"]
    assert one["environment"] == other["environment"]
    assert one["environment"].items() >= os.environ.items()  # C libraries add COLUMNS and LINES
    assert (one["argv"], one["folder"], one["affinity"]) == (sys.argv, os.getcwd(), os.sched_getaffinity(0))


def test_a_spawned_job_has_no_template(started: Started) -> None:
    spawned = started(SPAWN)
    assert (spawned["start"], spawned["template"], spawned["note"]) == (SPAWN, None, "")
    assert started.starter.template_pid is None


def test_another_template_has_another_hash_seed(started: Started) -> None:
    """The seed of hashes cannot change in a process, so jobs of one template share it."""
    one, other = started(), started()
    started.starter.renew()
    assert one["hash"] == other["hash"] != started()["hash"]


@pytest.mark.parametrize(
    ("requested", "arms", "expected"),
    [
        (TEMPLATE, "abab", ["new template", "template", "new template", "template"]),
        (TEMPLATE, "aaa", ["spawn", "spawn", "spawn"]),  # repeats of one arm
        (TEMPLATE, "abcabb", ["new template", "template", "template", "new template", "template", "spawn"]),
        (TEMPLATE, "abca", ["new template", "template", "template", "spawn"]),
        (SPAWN, "abab", ["spawn", "spawn", "spawn", "spawn"]),
    ],
)
def test_no_template_serves_two_runs_of_an_arm(requested: str, arms: str, expected: list[str]) -> None:
    served: list[str] = []
    starts = []
    for index, arm in enumerate(arms):
        method, is_new = planned_start(arms[index:], served, requested)
        if is_new:
            served = []
        if method == TEMPLATE:
            assert arm not in served
            served.append(arm)
        starts.append(f"new {method}" if method == TEMPLATE and is_new else method)
    assert starts == expected


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SOMETHING_ELSE"])
def test_a_changed_environment_replaces_the_template(
    name: str, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = started()
    monkeypatch.setenv(name, "7")
    after = started()
    assert after["environment"].items() >= os.environ.items()
    assert before["template"] != after["template"]
    monkeypatch.delenv(name)
    assert name not in started()["environment"]


def test_changed_cores_limits_and_output_replace_the_template(
    started: Started, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    templates = {started()["template"]}
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        job = started()
        assert job["affinity"] == {min(cores)}
        templates.add(job["template"])
    finally:
        os.sched_setaffinity(0, cores)
    output = os.dup(1)
    try:
        with (tmp_path / "out").open("w") as file:
            os.dup2(file.fileno(), 1)
        job = started()
        assert job["streams"][0] == (tmp_path / "out").stat().st_ino
        templates.add(job["template"])
    finally:
        os.dup2(output, 1)
        os.close(output)
    assert len(templates) == 3


def test_a_job_has_the_folder_and_the_path_of_its_launch(
    started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    job = started()
    assert job["folder"] == str(tmp_path)
    assert job["path"][0] == str(tmp_path)


def test_a_module_that_the_template_could_not_import_is_reported(started: Started) -> None:
    started.starter = JobStarter(started.warnings.append, preload="no_such_module")
    assert "loaderlab.runs.preload: not found" in started()["note"]


def test_a_template_that_dies_while_it_imports_is_replaced_by_spawning(started: Started) -> None:
    started.starter = JobStarter(started.warnings.append, preload="tests.runs.preloads.dies")
    assert started()["start"] == SPAWN
    assert started.warnings == ["the template process ended while it started this job, so the job gets a new process"]


def test_a_job_survives_the_death_of_its_template(started: Started, tmp_path: Path) -> None:
    """It is waited for until its end, and the next job gets a new template."""
    record = tmp_path / "record"
    process, receiving = started.starter.start(TEMPLATE, jobs_to_start.write_a_record, (record,), "a job")
    assert receiving.recv() == "training"
    killed = started.starter.template_pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    while started.starter.template_pid is not None:
        time.sleep(0.01)
    assert not process.ended(0.5)
    process.send(signal.SIGTERM)
    assert process.ended(20)
    assert record.read_text() == "Terminated"
    assert process.exit_code() is None  # only the template could know it
    process.close()
    assert started()["template"] not in (None, killed)
    assert started.warnings == []


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated"), (signal.SIGUSR1, "OutOfTime")],
)
def test_a_signal_reaches_the_job_and_not_the_template(
    number: signal.Signals, cause: str, started: Started, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    process, receiving = started.starter.start(TEMPLATE, jobs_to_start.write_a_record, (record,), "a job")
    assert receiving.recv() == "training"
    template = started.starter.template_pid
    assert template is not None
    os.kill(template, number)
    process.send(number)
    assert process.ended(20)
    process.close()
    assert record.read_text() == cause
    assert started()["template"] == template


def test_ctrl_c_while_the_template_imports_leaves_no_process(started: Started) -> None:
    started.starter = JobStarter(started.warnings.append, preload="tests.runs.preloads.slow")
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        started()
    assert started.starter.template_pid is None
    assert running_children() == []


def test_the_fork_server_of_a_jobs_workers_is_its_own(started: Started) -> None:
    """Otherwise the workers would not be descendants of the job, and the meter would not count them."""
    job, starter_of_server = started(TEMPLATE, jobs_to_start.with_a_worker)
    assert job == starter_of_server


LAUNCHER = """
import sys, time
from loaderlab.runs.job_start import JobStarter
from tests.runs import jobs_to_start
from pathlib import Path
starter = JobStarter(print, preload="colorsys")
process, receiving = starter.start("template", jobs_to_start.ends_with_its_launcher, (Path(sys.argv[1]),), "a job")
print(process.pid, starter.template_pid, receiving.recv(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_template_and_its_job_end_with_their_launcher(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path / "record")]
    with psutil.Popen(command, stdout=-1, text=True) as launcher:
        job, template, state = launcher.stdout.readline().split()
        assert state == "training"
        processes = [psutil.Process(int(pid)) for pid in (job, template)]
        launcher.send_signal(number)
        _, alive = psutil.wait_procs(processes, timeout=20)
    deadline = time.monotonic() + 20  # orphans stay zombies until the process that adopted them waits for them
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in alive):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (tmp_path / "record").read_text() == "Terminated"
