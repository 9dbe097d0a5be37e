"""What Slurm's commands print, as states of jobs; no Slurm is needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loaderlab.system import machine, processes, slurm, slurm_task
from loaderlab.system.slurm import GONE, JobState, SlurmError

NOTICE = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00{} ***\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder at the beginning of PATH, for fake programs."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def fake(folder: Path, name: str, output: str, code: int = 0, stream: int = 1) -> None:
    """A program that prints this text."""
    (folder / f"{name}.txt").write_text(output)
    (folder / name).write_text(f"#!/bin/sh\ncat {folder}/{name}.txt >&{stream}\nexit {code}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"SLURMD_NODENAME": "n1", "SLURM_JOB_ID": "7", "SUBMITIT_FOLDER": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)


def test_the_queue_and_the_accounts_are_combined(programs: Path) -> None:
    fake(programs, "squeue", "7|RUNNING|None|n1|note\n8|CANCELLED|None||(null)\n9|COMPLETED|None|n2|\n")
    fake(programs, "sacct", "8|CANCELLED by 1000|None assigned\n10|NODE_FAIL|n2\n")
    states = slurm.states_of(["7", "8", "9", "10", "11"])
    assert states["7"] == JobState("RUNNING", "RUNNING", "None", "n1", "note")
    assert str(states["8"]) == "cancelled in Slurm (CANCELLED by 1000)"
    assert str(states["10"]) == "its node failed on n2 (NODE_FAIL)"
    assert states["11"].state == GONE
    assert [states[job_id].has_ended for job_id in ("7", "8", "9", "10", "11")] == [False, True, True, True, True]


def test_a_cluster_without_accounts(programs: Path) -> None:
    fake(programs, "squeue", "8|TIMEOUT|TimeLimit|n1|\n")
    fake(programs, "sacct", "Slurm accounting storage is disabled\n", code=1, stream=2)
    assert str(slurm.states_of(["8"])["8"]) == "ended by Slurm at its time limit (TIMEOUT)"


def test_only_unusual_reasons_are_named() -> None:
    reasons = [JobState("PENDING", reason=reason).waits_for for reason in ("Priority", "PartitionTimeLimit")]
    assert reasons == ["", "PartitionTimeLimit"]


def test_a_missing_and_a_failing_command(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(programs, "squeue", "squeue: error: Unable to contact slurm controller\n", code=1, stream=2)
    with pytest.raises(SlurmError, match="^Unable to contact slurm controller$"):
        slurm.own_jobs()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SlurmError, match="there is no program squeue in PATH"):
        slurm.own_jobs()


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (NOTICE.format(""), "CANCELLED"),
        (NOTICE.format(" DUE TO TIME LIMIT"), "TIMEOUT"),
        (NOTICE.format("") + NOTICE.format(" DUE TO PREEMPTION"), "PREEMPTED"),
        (NOTICE.format(" DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"), "NODE_FAIL"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0.\n", "OUT_OF_MEMORY"),
    ],
)
def test_the_end_of_a_job_in_its_output(text: str, state: str) -> None:
    ending = slurm.end_in_output(f"a line\n{text}")
    assert ending is not None
    assert ending.state == state
    assert slurm.end_in_output("Traceback\n") is None


@pytest.mark.usefixtures("in_a_job")
def test_a_run_names_why_slurm_ends_its_job(programs: Path) -> None:
    fake(programs, "squeue", "7|COMPLETING|None|n1|\n")
    (programs / "7_0_log.err").write_text(NOTICE.format(""))
    assert processes.error_line(processes.Terminated()) == "cancelled in Slurm (CANCELLED), with SIGTERM"
    (programs / "7_0_log.err").unlink()
    assert processes.error_line(processes.Terminated()) == "ended by Slurm (COMPLETING), with SIGTERM"
    fake(programs, "squeue", "7|RUNNING|None|n1|\n")  # then somebody else sent the signal
    assert processes.error_line(processes.Terminated()) == "interrupted by SIGTERM"


def test_auto_uses_the_cores_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "core_limits", lambda: (64, None))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")  # salloc sets it in a shell outside of the allocation, too
    assert machine.available_cores() == 64
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    assert machine.available_cores() == 8
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "12")
    assert machine.available_cores() == 12
    monkeypatch.setattr(machine, "core_limits", lambda: (4, None))
    assert machine.available_cores() == 4


@pytest.mark.usefixtures("in_a_job")
def test_the_rendezvous_is_on_the_first_node(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    fake(programs, "scontrol", "n1\nn2\n")
    assert slurm_task.endpoint() == "n1:12007"
    fake(programs, "scontrol", "n1\n")
    assert slurm_task.endpoint() == "127.0.0.1:0"


@pytest.mark.usefixtures("in_a_job")
def test_a_submitted_job_does_not_inherit_the_job_of_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SBATCH_ACCOUNT", "team")
    with slurm_task.outside_of_a_job():
        assert "SLURM_JOB_ID" not in os.environ
        assert (os.environ["SLURM_CONF"], os.environ["SBATCH_ACCOUNT"]) == ("/etc/slurm.conf", "team")
    assert os.environ["SLURM_JOB_ID"] == "7"
