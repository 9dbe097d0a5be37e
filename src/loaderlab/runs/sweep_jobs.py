"""The jobs of a sweep (``plan.json``), which of them never ran, and the hash that identifies each. Pure.

The list is saved with the parent run as ``plan.json``, so that a killed sweep can be resumed and a comparison can list the
jobs that never started.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from loaderlab.config import EMULATED, TrainConfig
from loaderlab.config.accelerator import NONE
from loaderlab.config.launch import UNMEASURED
from loaderlab.runs.job import single
from loaderlab.tracking.records import NOT_APPLICABLE, NOT_REACHED, Missing, RunRecord, is_emulated

FILE = "plan.json"
LABELS = ("resume", "study", "rung", *UNMEASURED)  # names and storage settings do not affect the measurement
ACCELERATOR = "accelerator.name"  # only emulated jobs record it
LABEL_GROUPS = ("tracking.", "checkpoint.", "sweep.")
MAX_CHANGES = 5


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        name: the overrides that not every job of the sweep has.
        arm: the name without the repeat; all repeats of an arm share it.
        overrides: as typed.
        settings: the resolved configuration, flattened to text.
        not_applicable: why it cannot run on this machine; empty until that is known.
        ended: how its process ended, if it left no run.
        slurm_id: its Slurm job, once it is submitted.
    """

    name: str
    arm: str
    overrides: list[str]
    settings: dict[str, str]
    not_applicable: str = ""
    ended: str = ""
    slurm_id: str = ""

    @property
    def is_emulated(self) -> bool:
        """Whether it runs on an emulated accelerator."""
        return is_emulated(self.settings)

    @property
    def hash(self) -> str:
        """Identifies this job by its settings, without names and storage settings.

        An emulated job's rung counts: without a precision, the rung bf16 has the same settings as the rung before it.
        """
        rung = "rung" if self.is_emulated else None
        kept = {name: value for name, value in self.settings.items() if _affects_measurement(name) or name == rung}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _affects_measurement(name: str) -> bool:
    return name not in LABELS and not name.startswith(LABEL_GROUPS)


def varying(job_overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of each job that not every job has; they make up its name.

    >>> varying([["epochs=2", "loader=dali"], ["epochs=2", "loader=native"]])
    [['loader=dali'], ['loader=native']]
    """
    job_overrides = [[text for text in overrides if not text.startswith("resume=")] for overrides in job_overrides]
    common = set.intersection(*(set(overrides) for overrides in job_overrides))
    return [[text for text in overrides if text not in common] for overrides in job_overrides]


def sweep_jobs(jobs: Sequence[tuple[TrainConfig, list[str]]]) -> list[SweepJob]:
    """The jobs in the given order. ``run_sweep`` sorts them by repeat first, so that the arms are interleaved."""
    planned = []
    for (config, overrides), differing in zip(jobs, varying([overrides for _, overrides in jobs]), strict=True):
        own = single(config, overrides).name
        label = _label(config, differing)
        name, arm = (
            " ".join([*label, *texts]) if texts else own
            for texts in (differing, [text for text in differing if not text.startswith("repeat=")])
        )
        overrides = [text for text in overrides if not text.startswith("resume=")]
        settings = {key: "null" if value is None else str(value) for key, value in config.recorded()}
        planned.append(SweepJob(name, arm, overrides, settings))
    return planned


def _label(config: TrainConfig, differing: Sequence[str]) -> list[str]:
    """The beginning of an emulated job's name; empty for a real one."""
    if not config.accelerator.is_emulated:
        return []
    return [EMULATED if any(text.startswith("accelerator=") for text in differing) else config.accelerator.title]


def sweep_name(planned: Sequence[SweepJob], task_overrides: Sequence[str]) -> str:
    """The name of the parent run: its study and the settings with several values; for an emulated sweep the accelerator."""
    accelerators = {job.settings[ACCELERATOR] for job in planned if job.is_emulated}
    emulated = [EMULATED, *accelerators] if len(accelerators) == 1 else [EMULATED] * bool(accelerators)
    axes = [text for text in task_overrides if "," in text or text.startswith("study=")]
    return " ".join(["sweep", *emulated, *axes])


def to_json(planned: Iterable[SweepJob]) -> str:
    return json.dumps({"jobs": [asdict(job) for job in planned]}, indent=1)


def from_json(text: str) -> list[SweepJob]:
    return [SweepJob(**job) for job in json.loads(text)["jobs"]]


def duplicates(planned: Sequence[SweepJob]) -> tuple[int, int] | None:
    """The numbers, from 1, of two jobs that would do exactly the same work; None if all differ."""
    numbers: dict[str, int] = {}
    for number, job in enumerate(planned, 1):
        if job.hash in numbers:
            return numbers[job.hash], number
        numbers[job.hash] = number
    return None


def changes(recorded_jobs: Sequence[SweepJob], now: Sequence[SweepJob]) -> list[str]:
    """The settings of an earlier sweep's jobs that are missing in this one; empty if no job is missing.

    A sweep may gain repeats and arms.
    """
    hashes = {job.hash for job in now}
    missing_jobs = [job for job in recorded_jobs if job.hash not in hashes]
    if not missing_jobs:
        return []
    differences: dict[str, None] = {}
    for job in missing_jobs:
        nearest = min(now, key=lambda other: len(_differing(job, other)))
        for name in _differing(job, nearest):
            old_value, value = (_value(entry, name) for entry in (job, nearest))
            differences[f"{name} was {old_value}, now {value}"] = None
    listed = list(differences)
    return listed[:MAX_CHANGES] + ([f"and {len(listed) - MAX_CHANGES} more"] if len(listed) > MAX_CHANGES else [])


def _value(job: SweepJob, name: str) -> str:
    """The value of a setting, as text; a real job records no accelerator."""
    return job.settings.get(name, NONE if name == ACCELERATOR else "not set")


def _differing(one: SweepJob, other: SweepJob) -> list[str]:
    if one.is_emulated != other.is_emulated:  # then most settings differ
        return [ACCELERATOR]
    names = dict.fromkeys([*one.settings, *other.settings])
    return [name for name in names if _affects_measurement(name) and one.settings.get(name) != other.settings.get(name)]


def unreached(planned: Sequence[SweepJob], runs: Iterable[RunRecord]) -> list[Missing]:
    """The arms of jobs without a run, and why there is none."""
    recorded_hashes = {run.tags.get("config.hash") for run in runs}
    counts: Counter[tuple[str, str, bool]] = Counter()
    for job in planned:
        if job.hash not in recorded_hashes:
            counts[job.arm, _why_no_run(job), job.is_emulated] += 1
    return [
        Missing(arm, reason if count == 1 or NOT_APPLICABLE in reason else f"{reason} ({count} repeats)", is_emulated)
        for (arm, reason, is_emulated), count in counts.items()
    ]


def _why_no_run(job: SweepJob) -> str:
    if job.not_applicable:
        return f"{NOT_APPLICABLE}: {job.not_applicable}"
    submitted = f"{NOT_REACHED}: Slurm job {job.slurm_id} has no record yet" if job.slurm_id else NOT_REACHED
    return job.ended or submitted
