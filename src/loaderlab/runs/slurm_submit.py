"""Submits a function to Slurm with submitit, and reads its result and its output."""

from __future__ import annotations

import os
import pickle
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loaderlab
from loaderlab.config import SlurmConfig, TrainConfig, WrongUsage, flatten, refuse
from loaderlab.system import slurm
from loaderlab.system.causes import safe_text
from loaderlab.system.extras import require
from loaderlab.system.slurm import JobState, SlurmError
from loaderlab.system.slurm_task import outside_of_a_job

MISSING_FILE = "loaderlab: "  # how a line of a node starts that lacks a file
LAST_BYTES = 20_000  # of a job's output, to find its last lines
PATHS = ("data.root", "data.val_root")  # settings with a path that every node needs
PROGRAMS = ("sbatch", "squeue", "srun")


@dataclass(frozen=True)
class Allocation:
    """What one Slurm job requests. It has one task per node.

    Attributes:
        cpus, gpus: of each node; None and 0 request nothing.
        paths: files and folders that every node needs.
    """

    slurm: SlurmConfig
    num_nodes: int = 1
    cpus: int | None = None
    gpus: int = 0
    paths: Sequence[str] = field(default_factory=tuple)

    def options(self) -> dict[str, str | bool]:
        """The options of ``sbatch``, by name."""
        own: dict[str, str | bool] = {"nodes": str(self.num_nodes), "ntasks-per-node": "1", "no-requeue": True}
        own |= {"time": str(self.slurm.minutes)}
        requested = {"partition": self.slurm.partition, "cpus-per-task": self.cpus, "gpus-per-node": self.gpus or None}
        own |= {name: str(value) for name, value in requested.items() if value is not None}
        return own | self.slurm.parsed_options()

    def line(self) -> str:
        """The submitted line, for messages."""
        return shlex.join(["sbatch", *_typed(self.options())])


class Submitter:
    """Submits functions with one allocation.

    Args:
        folder: for the submitted scripts and the output of the jobs.
    """

    def __init__(self, folder: Path, allocation: Allocation) -> None:
        self.folder, self._allocation = folder.absolute(), allocation

    def submit(self, function: Callable[..., Any], *args: Any, name: str, comment: str) -> str:
        """The id of a new Slurm job that calls the function. The job does not end with this process.

        Args:
            comment: is stored with the job, without spaces: see `loaderlab.system.slurm.JobState.comment`.

        Raises:
            SlurmError: Slurm refuses the job.
        """
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self.folder.mkdir(parents=True, exist_ok=True)
        allocation = self._allocation
        cpus = [] if allocation.cpus is None else [f"--cpus-per-task={allocation.cpus}"]  # srun does not inherit it
        executor = submitit.SlurmExecutor(self.folder, max_num_timeout=0)
        executor.update_parameters(
            job_name=name,
            nodes=allocation.num_nodes,
            time=allocation.slurm.minutes,
            setup=_path_check(self._needed_paths(), allocation.num_nodes),
            srun_args=cpus,
            wckey=None,
            # instead of submitit's SIGUSR2 before the time limit, which would end the processes of a loader: one that is ignored
            additional_parameters=allocation.options() | {"comment": comment, "signal": "URG@1"},
        )
        try:
            with outside_of_a_job():
                job = executor.submit(function, *args)
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError(f"{slurm.message(safe_text(error))}. The submitted line: {allocation.line()}") from None
        return str(job.job_id)

    def _needed_paths(self) -> list[str]:
        package = Path(loaderlab.__file__).parent
        return [sys.executable, str(package), str(self.folder), os.getcwd(), *self._allocation.paths]

    def was_sent(self, job_id: str) -> bool:
        """Whether the function was stored for the job. It is not if this process was killed while it submitted."""
        return (self.folder / f"{job_id}_submitted.pkl").exists()

    def result(self, job_id: str, task: int = 0) -> Any:
        """What the function returned in this task; None if it has not returned."""
        try:
            outcome, value = pickle.loads((self.folder / f"{job_id}_{task}_result.pkl").read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            return None
        return value if outcome == "success" else None

    def output(self, job_id: str, task: int) -> Path:
        """The file with what a task prints on stdout."""
        return self.folder / f"{job_id}_{task}_log.out"

    def state_in_output(self, job_id: str) -> JobState | None:
        """How Slurm ended the job, from the job's output: for a job that Slurm does not know any more."""
        return slurm.end_in_output("\n".join(_last_lines(self.folder / f"{job_id}_0_log.err") or []))

    def last_line(self, job_id: str) -> str:
        """What a job that returned nothing said last: the file that its node lacks, its error, or that it printed nothing."""
        lines = _last_lines(self.folder / f"{job_id}_0_log.err")
        if lines is None:
            return f"it wrote no output to {self.folder}: check that its node sees this folder"
        missing = [line.removeprefix(MISSING_FILE) for line in lines if line.startswith(MISSING_FILE)]
        errors = [line for line in lines if not line.startswith(("srun:", "slurmstepd", "submitit "))]
        return next(iter(missing), errors[-1] if errors else "")


def needed_paths(configs: Iterable[TrainConfig]) -> list[str]:
    """The files and folders of these configurations that every node has to see, because this host sees them."""
    paths = {str(value) for config in configs for name, value in flatten(config) if name in PATHS and value is not None}
    return sorted(os.path.abspath(path) for path in paths if os.path.exists(path))


def check_slurm(setting: str, otherwise: str, allocation: Allocation) -> None:
    """Checks that Slurm answers and would accept such a job, before anything is started.

    Args:
        setting: what the user typed: ``sweep.on=slurm``.
        otherwise: what to type without Slurm: ``sweep.on=local``.

    Raises:
        WrongUsage: submitit or Slurm is missing, or Slurm refuses the job; with its message and the submitted line.
    """
    name, _, value = setting.partition("=")
    require(setting, "submitit")
    try:
        for program in PROGRAMS:
            slurm.ask([program, "--version"])
        slurm.own_jobs()
    except SlurmError as error:
        why = f"Slurm is not available: {safe_text(error)}. The line that would be submitted: {allocation.line()}"
        raise refuse(name, value, why, otherwise, is_example=False) from None
    command = ["sbatch", "--test-only", *_typed(allocation.options()), "--wrap=true"]
    try:
        slurm.ask(command)
    except SlurmError as error:
        raise WrongUsage(
            f"{setting}: Slurm refuses the job: {safe_text(error)}. The submitted line: {allocation.line()}. No job was started"
        ) from None


def _typed(options: Mapping[str, str | bool]) -> list[str]:
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]


def _path_check(paths: Sequence[str], num_nodes: int) -> list[str]:
    """The lines of a script that ends the job, with a clear message, if a node lacks one of these paths."""
    listed = " ".join(shlex.quote(path) for path in dict.fromkeys(paths))
    check = (
        f'for path in {listed}; do [ -e "$path" ] || {{ echo "{MISSING_FILE}node ${{SLURMD_NODENAME}} has no $path" >&2; '
        "exit 66; }; done"
    )
    each = "" if num_nodes == 1 else f"srun --nodes={num_nodes} --ntasks={num_nodes} --kill-on-bad-exit "
    return [f"{each}bash -c {shlex.quote(check)} || exit 66"]


def _last_lines(file: Path) -> list[str] | None:
    """The last lines of a file that are not empty; None if there is no such file."""
    try:
        with file.open("rb") as opened:
            opened.seek(0, os.SEEK_END)
            opened.seek(max(0, opened.tell() - LAST_BYTES))
            text = opened.read().decode(errors="replace")
    except OSError:
        return None
    return [line.strip() for line in text.splitlines() if line.strip()]
