"""The jobs of a sweep (``plan.json``), which of them never ran, and the hash that identifies each. Pure.

The list is kept with the parent run as ``plan.json``: a sweep that was killed can be resumed, and a comparison knows
which jobs never started.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from loaderlab.config import TrainConfig, flatten
from loaderlab.runs.job import single
from loaderlab.tracking.records import NOT_APPLICABLE, NOT_REACHED, Missing, RunRecord

FILE = "plan.json"
LABELS = ("resume", "study", "rung")  # names, and what says how a run is kept: no part of what it measures
LABEL_GROUPS = ("tracking.", "checkpoint.", "sweep.")
MOST_CHANGES = 5


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        name: the overrides that not every job has.
        arm: those without the repeat: repeats of one arm share it.
        overrides: as typed.
        settings: the resolved configuration, flattened, as text.
        not_applicable: why it cannot run on this machine, once that is known.
        ended: how its process ended, where it left no run that it knew of.
    """

    name: str
    arm: str
    overrides: list[str]
    settings: dict[str, str]
    not_applicable: str = ""
    ended: str = ""

    @property
    def hash(self) -> str:
        """Tells this job from every other: of its settings, without names and places."""
        kept = {name: value for name, value in self.settings.items() if _counts(name)}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _counts(name: str) -> bool:
    return name not in LABELS and not name.startswith(LABEL_GROUPS)


def varying(job_overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each job the overrides that not every job has: what its name is made of.

    >>> varying([["epochs=2", "loader=dali"], ["epochs=2", "loader=native"]])
    [['loader=dali'], ['loader=native']]
    """
    job_overrides = [[text for text in overrides if not text.startswith("resume=")] for overrides in job_overrides]
    common = set.intersection(*(set(overrides) for overrides in job_overrides))
    return [[text for text in overrides if text not in common] for overrides in job_overrides]


def sweep_jobs(jobs: Sequence[tuple[TrainConfig, list[str]]]) -> list[SweepJob]:
    """These jobs in the order given; ``run_sweep`` gives them round after round, so that the arms are interleaved."""
    planned = []
    for (config, overrides), differing in zip(jobs, varying([overrides for _, overrides in jobs]), strict=True):
        own = single(config, overrides).name
        arm = " ".join(text for text in differing if not text.startswith("repeat="))
        overrides = [text for text in overrides if not text.startswith("resume=")]
        settings = {name: "null" if value is None else str(value) for name, value in flatten(config)}
        planned.append(SweepJob(" ".join(differing) or own, arm or own, overrides, settings))
    return planned


def to_json(planned: Iterable[SweepJob]) -> str:
    return json.dumps({"jobs": [asdict(job) for job in planned]}, indent=1)


def from_json(text: str) -> list[SweepJob]:
    return [SweepJob(**job) for job in json.loads(text)["jobs"]]


def duplicates(planned: Sequence[SweepJob]) -> tuple[int, int] | None:
    """The numbers, from 1, of two jobs that would do exactly the same; None if all differ."""
    known: dict[str, int] = {}
    for number, job in enumerate(planned, 1):
        if job.hash in known:
            return known[job.hash], number
        known[job.hash] = number
    return None


def changes(before: Sequence[SweepJob], now: Sequence[SweepJob]) -> list[str]:
    """Why jobs of an earlier sweep are no jobs of this one; empty if all of them still are.

    A sweep may grow: more repeats, another arm.
    """
    hashes = {job.hash for job in now}
    lost = [job for job in before if job.hash not in hashes]
    if not lost:
        return []
    differences: dict[str, None] = {}
    for job in lost:
        nearest = min(now, key=lambda other: len(_differing(job, other)))
        for name in _differing(job, nearest):
            before_value, value = (entry.settings.get(name, "not there") for entry in (job, nearest))
            differences[f"{name} was {before_value}, now {value}"] = None
    listed = list(differences)
    return listed[:MOST_CHANGES] + ([f"and {len(listed) - MOST_CHANGES} more"] if len(listed) > MOST_CHANGES else [])


def _differing(one: SweepJob, other: SweepJob) -> list[str]:
    names = dict.fromkeys([*one.settings, *other.settings])
    return [name for name in names if _counts(name) and one.settings.get(name) != other.settings.get(name)]


def unreached(planned: Sequence[SweepJob], runs: Iterable[RunRecord]) -> list[Missing]:
    """Arms for which there is no run at all, and why."""
    tried = {run.tags.get("config.hash") for run in runs}
    counts: Counter[tuple[str, str]] = Counter()
    for job in planned:
        if job.hash not in tried:
            why = f"{NOT_APPLICABLE}: {job.not_applicable}" if job.not_applicable else job.ended or NOT_REACHED
            counts[job.arm, why] += 1
    return [
        Missing(arm, why if count == 1 or NOT_APPLICABLE in why else f"{why} ({count} repeats)")
        for (arm, why), count in counts.items()
    ]
