"""What a sweep is going to do: its jobs, in order, each known by the hash of its resolved configuration. Pure.

The plan is kept with the parent run, so that a sweep that was killed can be gone on with, and a comparison can tell
which jobs were never reached.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from loaderlab.config import ReplayLoader, TrainConfig, flatten
from loaderlab.runs.job import single
from loaderlab.tracking.records import NOT_APPLICABLE, NOT_REACHED, Missing, RunRecord

FILE = "plan.json"
PARITY_FILE = "parity.json"
LABELS = ("resume", "study", "rung")  # names, and what says how a run is kept: no part of what it measures
LABEL_GROUPS = ("tracking.", "checkpoint.", "sweep.")
MOST_TOLD = 5


@dataclass
class PlannedJob:
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


def make(jobs: Sequence[tuple[TrainConfig, list[str]]]) -> list[PlannedJob]:
    """The plan of these jobs, rounds of repeats one after the other, so that the arms are interleaved."""
    planned = []
    for (config, overrides), differing in zip(jobs, varying([overrides for _, overrides in jobs]), strict=True):
        own = single(config, overrides).name
        arm = " ".join(text for text in differing if not text.startswith("repeat="))
        overrides = [text for text in overrides if not text.startswith("resume=")]
        settings = {name: "null" if value is None else str(value) for name, value in flatten(config)}
        planned.append(PlannedJob(" ".join(differing) or own, arm or own, overrides, settings))
    return planned


def to_json(planned: Iterable[PlannedJob]) -> str:
    return json.dumps({"jobs": [asdict(job) for job in planned]}, indent=1)


def from_json(text: str) -> list[PlannedJob]:
    return [PlannedJob(**job) for job in json.loads(text)["jobs"]]


def twice(planned: Sequence[PlannedJob]) -> tuple[int, int] | None:
    """The numbers, from 1, of two jobs that would do the very same; None where all differ."""
    known: dict[str, int] = {}
    for number, job in enumerate(planned, 1):
        if job.hash in known:
            return known[job.hash], number
        known[job.hash] = number
    return None


def changes(before: Sequence[PlannedJob], now: Sequence[PlannedJob]) -> list[str]:
    """What keeps jobs of an earlier plan from being jobs of this one: empty where each of them is there.

    A plan may grow: more repeats, another arm.
    """
    hashes = {job.hash for job in now}
    lost = [job for job in before if job.hash not in hashes]
    if not lost:
        return []
    told: dict[str, None] = {}
    for job in lost:
        nearest = min(now, key=lambda other: len(_differing(job, other)))
        for name in _differing(job, nearest):
            told[f"{name} was {job.settings.get(name, 'not there')}, now {nearest.settings.get(name, 'not there')}"] = (
                None
            )
    listed = list(told)
    return listed[:MOST_TOLD] + ([f"and {len(listed) - MOST_TOLD} more"] if len(listed) > MOST_TOLD else [])


def _differing(one: PlannedJob, other: PlannedJob) -> list[str]:
    names = dict.fromkeys([*one.settings, *other.settings])
    return [name for name in names if _counts(name) and one.settings.get(name) != other.settings.get(name)]


def unreached(planned: Sequence[PlannedJob], runs: Iterable[RunRecord]) -> list[Missing]:
    """Arms of a plan for which there is no run at all, and why."""
    tried = {run.tags.get("config.hash") for run in runs}
    found: dict[tuple[str, str], int] = {}
    for job in planned:
        if job.hash not in tried:
            why = f"{NOT_APPLICABLE}: {job.not_applicable}" if job.not_applicable else job.ended or NOT_REACHED
            found[job.arm, why] = found.get((job.arm, why), 0) + 1
    return [
        Missing(arm, why if count == 1 or NOT_APPLICABLE in why else f"{why} ({count} repeats)")
        for (arm, why), count in found.items()
    ]


# ---- loaders that are compared -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComparedLoader:
    """A loader of a sweep in which other loaders load the same samples.

    Attributes:
        key: see `loader_key`.
        name: what tells it from the others of the sweep, as typed.
        config: of one of the jobs that it serves.
    """

    key: str
    name: str
    config: TrainConfig


def loader_key(config: TrainConfig) -> str:
    """Tells from every other what a job's loader is, and what it is to deliver."""
    parts = (config.loader, config.data, config.batch_size, config.drop_last, config.device)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def compared_loaders(configs: Iterable[TrainConfig]) -> list[ComparedLoader]:
    """The loaders of a sweep where there are several for the same samples; without ceilings, which load nothing."""
    known = {
        loader_key(config): config for config in reversed(list(configs)) if not isinstance(config.loader, ReplayLoader)
    }
    compared = {
        key: config
        for key, config in reversed(known.items())
        if any(other.data == config.data and other.loader != config.loader for other in known.values())
    }
    names = _telling_apart(list(compared.values()))
    return [ComparedLoader(key, name, config) for (key, config), name in zip(compared.items(), names, strict=True)]


def _telling_apart(configs: Sequence[TrainConfig]) -> list[str]:
    """Of each the settings of loader, data and batch that have several values among those that have them."""
    groups = ("loader.", "data.", "batch_size", "drop_last", "device")
    settings = [{name: value for name, value in flatten(config) if name.startswith(groups)} for config in configs]
    values: dict[str, set[str]] = {}
    for own in settings:
        for name, value in own.items():
            values.setdefault(name, set()).add(str(value))
    return [
        " ".join(f"{name.removesuffix('.name')}={value}" for name, value in own.items() if len(values[name]) > 1)
        for own in settings
    ]
