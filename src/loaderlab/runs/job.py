"""A job: the name of a run and the result it returns. Imports little, since the launching process needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loaderlab.config import TrainConfig, choice


@dataclass(frozen=True)
class Job:
    """The name of a run, and the sweep it belongs to.

    Attributes:
        arm: the name without the repeat.
        hash: identifies the resolved configuration, so that a resumed sweep recognises its jobs.
        machine: the load from other programs before it started, as metrics: see `loaderlab.system.machine.state`.
        parity: the value of the parity tag; empty if parity was not checked.
    """

    name: str
    arm: str
    parent_id: str | None = None
    overrides: tuple[str, ...] = ()
    hash: str = ""
    machine: Mapping[str, float] = field(default_factory=dict)
    parity: str = ""


@dataclass(frozen=True)
class RunResult:
    """What a run returns to its launcher.

    Attributes:
        run_id: empty if the run left no record.
        status: FINISHED, FAILED, KILLED, or `loaderlab.tracking.records.NOT_APPLICABLE`, which leaves no record.
        figures: metric name to value.
        error: one message; empty if it finished.
        verdict: the grade; empty if there is none.
        wrong_usage: what was typed is wrong, and nothing was trained.
    """

    run_id: str
    status: str
    figures: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    verdict: str = ""
    wrong_usage: bool = False


def single(config: TrainConfig, overrides: Sequence[str]) -> Job:
    """The job of a single run, named after its choices."""
    data, loader, accelerator = choice(config.data), choice(config.loader), config.accelerator
    name = f"{data} {choice(config.model)} {loader} {choice(config.precision)}"
    if accelerator.is_emulated:
        name = f"{data} {accelerator.title} {loader}"
    return Job(name=name, arm=name, overrides=tuple(overrides))
