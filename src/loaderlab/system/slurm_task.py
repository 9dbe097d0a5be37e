"""What a process can read about the Slurm job that it runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loaderlab.system.slurm import BY_SLURM, COMPLETING, SlurmError, ask, end_in_output, states_of

NODE, JOB_ID = "SLURMD_NODENAME", "SLURM_JOB_ID"  # only the processes of a job's tasks have the first
OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")  # variables that Slurm and submitit set in a job
OF_A_RANK = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OF_THE_USER = ("SLURM_CONF",)
LOOPBACK = "127.0.0.1"
FIRST_PORT, NUM_PORTS = 12_000, 20_000  # below the ports that systems give to clients


def end_of_own_job() -> str:
    """Why Slurm ends the job that this process runs in; empty outside of a job, and if Slurm does not end it.

    While the job's processes end, Slurm's commands only say that they do. What Slurm has written to the job's stderr says why.
    """
    job_id = own_job_id()
    if not job_id:
        return ""
    try:
        state = states_of([job_id])[job_id]
    except SlurmError:
        return ""
    if state.state != COMPLETING:
        return str(state) if state.state in BY_SLURM else ""
    return str(end_in_output(_output_of(job_id)) or state)


def _output_of(job_id: str) -> str:
    """What the first task of a job that submitit started has written to stderr so far; empty if that is not known."""
    try:
        file = Path(os.environ["SUBMITIT_FOLDER"]) / f"{job_id}_0_log.err"
        return file.read_text(encoding="utf-8", errors="replace")
    except (KeyError, OSError):
        return ""


def own_job_id() -> str:
    """The id of the Slurm job that this process runs in; empty outside of a job."""
    return os.environ.get(JOB_ID, "") if NODE in os.environ else ""


def endpoint() -> str:
    """HOST:PORT of the rendezvous of this job's nodes: its first node, and a port that no other job has."""
    hosts = ask(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]).split()
    return f"{LOOPBACK}:0" if len(hosts) == 1 else f"{hosts[0]}:{FIRST_PORT + int(own_job_id()) % NUM_PORTS}"


def allocated_cores() -> int | None:
    """The cores that Slurm gave to this task; None outside of a job.

    A cluster without cgroups does not limit the affinity of a job's processes to them.
    """
    if NODE not in os.environ:
        return None
    if (per_task := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        return int(per_task)
    on_node, tasks = (os.environ.get(f"SLURM_{name}", "") for name in ("CPUS_ON_NODE", "NTASKS_PER_NODE"))
    return max(1, int(on_node) // (int(tasks) if tasks.isdigit() else 1)) if on_node.isdigit() else None


@contextmanager
def outside_of_a_job() -> Iterator[None]:
    """Hides the variables of the Slurm job that this process may run in, which a job that is submitted here would inherit."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name not in OF_THE_USER and (name.startswith(OF_A_JOB) or name in OF_A_RANK)
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
