"""What Slurm says about its jobs. Needs no Python package.

``squeue`` knows the jobs that wait or run, and those that ended a few minutes ago; ``sacct`` knows the earlier ones, if the
cluster keeps accounts.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ENDED = {  # states in which a job does not run any more, and how a record names each
    "BOOT_FAIL": "its node could not start",
    "CANCELLED": "cancelled in Slurm",
    "COMPLETED": "ended",
    "DEADLINE": "ended by Slurm at its deadline",
    "FAILED": "its process failed",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "ended by Slurm because it used too much memory",
    "PREEMPTED": "preempted by Slurm",
    "REVOKED": "removed by Slurm",
    "TIMEOUT": "ended by Slurm at its time limit",
}
BY_SLURM = set(ENDED) - {"COMPLETED", "FAILED"}  # Slurm or a user ended it
USUAL_REASONS = ("None", "Priority", "Resources", "Cleaning", "BeginTime", "JobHeldUser")
GONE = "GONE"  # neither command knows the job
COMPLETING = "COMPLETING"  # its processes are ending; how they came to end is not visible yet
NOTICE = re.compile(
    r"\*\*\* (?:JOB|STEP) \S+ ON (\S+) CANCELLED AT \S+(?: DUE TO ([^*,]+?)(?:,[^*]*)?)? \*\*\*"
)  # of slurmstepd
NOTICES = {"TIME LIMIT": "TIMEOUT", "PREEMPTION": "PREEMPTED", "NODE FAILURE": "NODE_FAIL", "JOB REQUEUE": "PREEMPTED"}
QUERY_S = 30.0


class SlurmError(Exception):
    """A command of Slurm is missing, failed or did not answer; the text is its message."""


@dataclass(frozen=True)
class JobState:
    """The state of one job.

    Attributes:
        state: as Slurm names it: PENDING, RUNNING, CANCELLED; `GONE` if no command knows the job.
        detail: the state with more details, such as ``CANCELLED by 1000``.
        reason: why it waits.
        nodes: where it runs or ran; empty before it starts.
        comment: what its submission stored with it.
    """

    state: str
    detail: str = ""
    reason: str = ""
    nodes: str = ""
    comment: str = ""

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED or self.state == GONE

    @property
    def waits_for(self) -> str:
        """Why it waits, unless it only waits for its turn; empty otherwise."""
        return self.reason if self.state == "PENDING" and self.reason not in USUAL_REASONS else ""

    def __str__(self) -> str:
        """How it ended, for a record: ``cancelled in Slurm (CANCELLED by 1000)``."""
        if self.state == GONE:
            return "ended, and Slurm does not know its state any more"
        if self.state == COMPLETING:
            return f"ended by Slurm ({self.reason if self.reason not in USUAL_REASONS else self.state})"
        where = f" on {self.nodes}" if self.state == "NODE_FAIL" and self.nodes else ""
        return f"{ENDED.get(self.state, 'in Slurm')}{where} ({self.detail or self.state})"


def parse_queue(text: str) -> dict[str, JobState]:
    """The state of each job, by its id, from the output of ``squeue --format=%A|%T|%r|%N|%k``.

    >>> parse_queue("7|PENDING|Resources||a note")["7"].reason
    'Resources'
    """
    states = {}
    for line in text.splitlines():
        job_id, state, reason, nodes, comment = (*line.split("|", 4), "", "", "", "")[:5]
        if job_id.isdigit():
            states[job_id] = JobState(state, state, reason, nodes, "" if comment == "(null)" else comment)
    return states


def parse_accounts(text: str) -> dict[str, JobState]:
    """The state of each job, by its id, from the output of ``sacct --parsable2 --format=JobIDRaw,State,NodeList``.

    >>> parse_accounts("7|CANCELLED by 1000|None assigned")["7"]
    JobState(state='CANCELLED', detail='CANCELLED by 1000', reason='', nodes='', comment='')
    """
    states = {}
    for line in text.splitlines():
        job_id, detail, nodes = (*line.split("|"), "", "")[:3]
        if job_id.isdigit() and detail:
            states[job_id] = JobState(
                detail.split()[0].rstrip("+"), detail, "", "" if nodes == "None assigned" else nodes
            )
    return states


def end_in_output(text: str) -> JobState | None:
    """How a job ended, from what Slurm adds to its output on stderr; None if there is no such line.

    >>> str(end_in_output("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***"))
    'ended by Slurm at its time limit (TIMEOUT)'
    """
    if re.search(r"slurmstepd.*oom.kill", text):
        return JobState("OUT_OF_MEMORY")
    notices = [(match[1], match[2] or "") for match in NOTICE.finditer(text)]
    if not notices:
        return None
    node, cause = max(notices, key=lambda notice: bool(notice[1]))  # the first one with a cause
    return JobState(NOTICES.get(cause, "CANCELLED"), nodes=node)


def ask(command: Sequence[str]) -> str:
    """The output of a Slurm command.

    Raises:
        SlurmError: it is not installed, fails or does not answer.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=QUERY_S, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise SlurmError(f"there is no program {command[0]} in PATH") from None
    except (OSError, subprocess.TimeoutExpired):
        raise SlurmError(f"{command[0]} did not answer within {QUERY_S:.0f} s") from None
    if done.returncode:
        raise SlurmError(message(done.stderr) or f"{command[0]} ended with exit code {done.returncode}")
    return done.stdout


def message(output: str) -> str:
    """A command's own message in one line, without the parts ``sbatch: error:`` at its beginning.

    >>> message("sbatch: error: invalid partition specified: x\\nsbatch: error: Batch job submission failed: Invalid name")
    'invalid partition specified: x; Batch job submission failed: Invalid name'
    """
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line).strip() for line in output.splitlines()]
    errors = [
        line for line, raw in zip(lines, output.splitlines(), strict=True) if ": error: " in raw or ": fatal: " in raw
    ]
    return "; ".join(errors or [line for line in lines if line])


def own_jobs() -> dict[str, JobState]:
    """The jobs of this user that wait or run, and those that ended a few minutes ago, by their ids.

    Raises:
        SlurmError: Slurm does not answer.
    """
    user = str(os.getuid())
    return parse_queue(ask(["squeue", "--noheader", "--states=all", f"--user={user}", "--format=%A|%T|%r|%N|%k"]))


def accounts(job_ids: Iterable[str]) -> dict[str, JobState]:
    """The jobs that the cluster's accounts know, by their ids; empty if it keeps none."""
    command = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobIDRaw,State,NodeList"]
    try:
        return parse_accounts(ask([*command, f"--jobs={','.join(job_ids)}"]))
    except SlurmError:
        return {}


def states_of(job_ids: Sequence[str]) -> dict[str, JobState]:
    """The state of each of these jobs, by its id. Accounts have more details about a job that has ended, and know it longer.

    Raises:
        SlurmError: Slurm does not answer.
    """
    known = own_jobs()
    states = {job_id: known.get(job_id, JobState(GONE)) for job_id in job_ids}
    if ended := [job_id for job_id, state in states.items() if state.has_ended and state.state != "COMPLETED"]:
        states |= {job_id: state for job_id, state in accounts(ended).items() if state.has_ended and job_id in states}
    return states


def node_hosts(partition: str | None) -> set[str]:
    """The host names of a partition's nodes; of all nodes without a partition. Empty if Slurm does not answer."""
    chosen = [f"--partition={partition}"] if partition else []
    try:
        return set(ask(["sinfo", "--noheader", "--Node", "--format=%n", *chosen]).split())
    except SlurmError:
        return set()
