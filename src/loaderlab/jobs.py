"""What a run is called and what is left of it: light enough for the process that only launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loaderlab.config import TrainConfig, choice


@dataclass(frozen=True)
class Job:
    """What a run is called, and the sweep it belongs to.

    Attributes:
        arm: its name without the repeat.
        hash: of its resolved configuration, by which a sweep knows it again.
        machine: what else went on before it, as metrics: see `loaderlab.machine.state`.
        parity: whether its loader was found to do the same work as the others, as a tag; empty where nobody looked.
    """

    name: str
    arm: str
    parent_id: str | None = None
    overrides: tuple[str, ...] = ()
    hash: str = ""
    machine: Mapping[str, float] = field(default_factory=dict)
    parity: str = ""


NOT_APPLICABLE = "not applicable here"
NOT_REACHED = "not reached"  # a job that a sweep had not begun when it ended
PARITY = "parity"  # the tag with one of the next three, the last two with what was found
SAME_WORK, UNLIKE_WORK, NOT_CHECKED = "same work", "unlike work", "not checked"
NOT_FINITE = "not_finite"  # the tag with the names of figures that ended as NaN or infinity


@dataclass
class RunResult:
    """What is left of a run: where it is recorded, how it ended (FINISHED, FAILED, KILLED, or `NOT_APPLICABLE` where this
    machine is not made for it, which leaves no record), its figures."""

    run_id: str
    status: str
    figures: dict[str, float] = field(default_factory=dict)
    error: str = ""
    verdict: str = ""


def single(config: TrainConfig, overrides: Sequence[str]) -> Job:
    """The name of a run on its own: its four choices."""
    choices = (config.data, config.model, config.loader, config.precision)
    name = " ".join(choice(part) for part in choices)
    return Job(name=name, arm=name, overrides=tuple(overrides))


def lost_of(tags: Mapping[str, str]) -> list[str]:
    """What the tag `NOT_FINITE` names."""
    return tags[NOT_FINITE].split(", ") if NOT_FINITE in tags else []


@dataclass(frozen=True)
class Recorded:
    """A run as the store holds it.

    Attributes:
        status: FINISHED, FAILED, KILLED or RUNNING.
        started_ms: since 1970.
        settings: the resolved configuration, flattened, as text.
        figures: the last value of each metric; without those that ended as NaN or infinity.
    """

    run_id: str
    name: str
    status: str
    parent_id: str | None
    started_ms: int
    settings: Mapping[str, str]
    figures: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def lost(self) -> list[str]:
        """Names of figures that ended as NaN or infinity."""
        return lost_of(self.tags)


@dataclass(frozen=True)
class Missing:
    """A job or a run that has no figures to compare, and why."""

    name: str
    why: str

    @property
    def not_applicable(self) -> bool:
        return self.why.startswith(NOT_APPLICABLE)

    @property
    def not_reached(self) -> bool:
        return self.why.startswith(NOT_REACHED)
