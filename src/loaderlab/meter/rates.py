"""Rates that a run is compared with: what the probes measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rate:
    """Samples per second, with the 95 % interval within the probe if it had enough steps for one."""

    samples_per_s: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class LoaderRate:
    """The loader with nobody training: samples per second, transfer included, and the number of cores it kept busy."""

    samples_per_s: float
    cores: float


@dataclass(frozen=True)
class ProbeResults:
    """What the probes measured. None: switched off, or not measurable, with the reason in the notes.

    Attributes:
        ceiling: the step fed from resident batches; contended: the same with the loader running beside it.
        loader_alone: the loader without training.
        cold, warm: the loop with its files out of the kernel's cache, and in it.
        stages: seconds per sample that a worker needs to ``prepare`` and to ``collate``.
        ceiling_by_threads: the ceiling with other numbers of torch's threads, which advice would bring about.
        notes: why a probe has no figure, one line each.
    """

    ceiling: Rate | None = None
    loader_alone: LoaderRate | None = None
    contended: Rate | None = None
    cold: Rate | None = None
    warm: Rate | None = None
    stages: Mapping[str, float] | None = None
    ceiling_by_threads: Mapping[int, Rate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
