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
        tags: more tags of the run.
    """

    name: str
    arm: str
    parent_id: str | None = None
    overrides: tuple[str, ...] = ()
    hash: str = ""
    machine: Mapping[str, float] = field(default_factory=dict)
    parity: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunWindow:
    """What the tuner needs of a run's measured window in addition to its metrics.

    The values cover the whole window, also if the starved share changed during the run: see `loaderlab.diagnosis.evidence.Evidence` for
    their meaning.

    Attributes:
        torch_threads: of the step.
        cpu_s_per_sample: CPU time of the training process and its workers, over the whole loop; None if it was not counted.
        first_step_at: when the first batch had arrived, in seconds since 1970; None if that is not known.
    """

    num_steps: int
    rate: float
    starved_pct: float
    starved_interval: tuple[float, float] | None
    delivery_pct: float
    late_steps: float | None
    ceiling_by_threads: Mapping[int, float]
    torch_threads: int
    cpu_s_per_sample: float | None
    first_step_at: float | None


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
        window: None if no step was measured.
        warnings: what it would have warned of, if it was launched quietly.
    """

    run_id: str
    status: str
    figures: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    verdict: str = ""
    wrong_usage: bool = False
    window: RunWindow | None = None
    warnings: Sequence[str] = ()


def single(config: TrainConfig, overrides: Sequence[str]) -> Job:
    """The job of a single run, named after its choices."""
    data, loader, accelerator = choice(config.data), choice(config.loader), config.accelerator
    name = f"{data} {choice(config.model)} {loader} {choice(config.precision)}"
    if accelerator.is_emulated:
        name = f"{data} {accelerator.title} {loader}"
    return Job(name=name, arm=name, overrides=tuple(overrides))
