"""Settings of a Slurm job, for a sweep on a cluster and for a job of several ranks."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from loaderlab.config.base import refuse, setting

OWN_OPTIONS = (
    "array",
    "comment",
    "error",
    "job-name",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "output",
    "requeue",
    "signal",
    "time",
)


@dataclass
class SlurmConfig:
    """What every Slurm job needs, whatever runs in it.

    The settings stand in a group of the configuration. A class of such a group calls `check_options` with the group's name.
    """

    partition: str | None = setting(None, "partition of the Slurm jobs; null: the cluster's default")
    minutes: int = setting(
        60, "time limit of a Slurm job; shortly before it the run ends, and its results so far are recorded", at_least=1
    )
    options: str | None = setting(
        None, "more options of sbatch, as name:value or name: account:team; several in quotes; null: none"
    )
    folder: str = setting(
        "outputs/slurm", "folder of the submitted scripts and of the jobs' output; every node needs to see it"
    )

    def check_options(self, group: str) -> None:
        """Raises:
        UserError: an option cannot be read, or it is set by loaderlab itself.
        """
        try:
            own = next((name for name in self.parsed_options() if name in OWN_OPTIONS), None)
        except ValueError:
            raise refuse(
                f"{group}.options", self.options, "has a quote without its end", self._example(group)
            ) from None
        if own is not None:
            allowed = f"{own} is set by loaderlab itself, so leave it out"
            raise refuse(f"{group}.options", self.options, allowed, self._example(group))

    @staticmethod
    def _example(group: str) -> str:
        return f"{group}.options=account:team"

    def parsed_options(self) -> dict[str, str | bool]:
        """The value of each further option of sbatch, by its name; True for an option without a value. As on sbatch's own command
        line, ``--name=value`` is understood too; Hydra needs quotes around it.

        >>> SlurmConfig(options="account:team exclusive --gres=gpu:2").parsed_options()
        {'account': 'team', 'exclusive': True, 'gres': 'gpu:2'}
        """
        parsed: dict[str, str | bool] = {}
        for word in shlex.split(self.options or ""):
            name, *value = re.split("[:=]", word.removeprefix("--"), maxsplit=1)
            parsed[name] = value[0] if value else True
        return parsed


@dataclass
class SweepSlurmConfig(SlurmConfig):
    """What each job of a sweep requests from Slurm."""

    cpus: int | None = setting(
        None, "processor cores of a job; null: the cluster's default, often 1", at_least=1, example=8
    )
    gpus: int = setting(0, "GPUs of a job", at_least=0)

    def __post_init__(self) -> None:
        self.check_options("sweep.slurm")
