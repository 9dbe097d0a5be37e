"""Results of the probes: the rates that a run is compared with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rate:
    """Samples per second, with its 95 % confidence interval if the probe had enough steps."""

    samples_per_s: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class LoaderRate:
    """The loader without training: samples per second, transfer included, and the number of cores that it used."""

    samples_per_s: float
    cores: float


@dataclass(frozen=True)
class ProbeResults:
    """Results of the probes. None: switched off, or not measurable, with the reason in the notes.

    Attributes:
        ceiling: the step fed from batches on the device; contended: the same while the loader runs too.
        loader_alone: the loader without training.
        cold, warm: the loop with its files out of the page cache, and in it.
        stages: seconds per sample that a worker needs to ``prepare`` and to ``collate``.
        ceiling_by_threads: the ceiling with the numbers of torch threads that the advice would lead to.
        notes: why a probe has no result, one line each.
    """

    ceiling: Rate | None = None
    loader_alone: LoaderRate | None = None
    contended: Rate | None = None
    cold: Rate | None = None
    warm: Rate | None = None
    stages: Mapping[str, float] | None = None
    ceiling_by_threads: Mapping[int, Rate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
