"""What the run might have been: the step without a loader, the loader without a step, both side by side.

The probes come after training and go through the very loop that trained, so that what they measure differs from the run
in one thing each. Whatever they change is put back: see `untouched`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from loaderlab.config import AUTO, MeasureConfig, UserError
from loaderlab.data.spec import EncodedImages, Split
from loaderlab.loaders.contract import Batch, EpochPlan, Loader
from loaderlab.meter import resources
from loaderlab.probes.cold import cold_and_warm
from loaderlab.probes.rates import (
    ENOUGH_STEPS,
    WARMUP_STEPS,
    Alone,
    Rate,
    Resident,
    Unmeasurable,
    ceiling,
    loader_alone,
    resident_batches,
)
from loaderlab.probes.state import random_states_kept, untouched
from loaderlab.training import Parts

__all__ = [
    "WARMUP_STEPS",
    "Alone",
    "Probed",
    "Rate",
    "Resident",
    "Unmeasurable",
    "ceiling",
    "cold_and_warm",
    "loader_alone",
    "probe",
    "random_states_kept",
    "resident_batches",
    "untouched",
]


@dataclass
class Probed:
    """What the probes found; None: switched off, or not to be had, with the reason among the notes."""

    ceiling: Rate | None = None
    alone: Alone | None = None
    contended: Rate | None = None
    cold: Rate | None = None
    warm: Rate | None = None
    stages: Mapping[str, float] | None = None
    notes: list[str] = field(default_factory=list)


def probe(
    found: Probed,
    parts: Parts,
    settings: MeasureConfig,
    rebuild: Callable[[], Loader],
    split: Split,
    plan: EpochPlan,
    epoch: int,
    accumulate: int,
    rate: float,
    told: Callable[[int, str], None],
) -> None:
    """Every probe that is switched on, each bounded in time; leaves the parts as they were, but for their loader, which
    is closed. The run is over: a probe that fails leaves a note, not a failed run.

    Args:
        found: what the probes find, as they go: an interrupt leaves what was found before it.
        rebuild: a new loader like that of the run.
        epoch: whose samples to use.
        rate: of the run, samples/s.
        told: is called with (number, name) before each probe.
    """
    if not (settings.ceiling or settings.loader_alone or settings.cold):
        return
    with_contention = settings.ceiling if settings.contention == AUTO else settings.contention
    seconds = settings.probe_s
    with untouched(parts):
        batches: list[Batch] = []
        with noted(found, "probes"):
            batches = resident_batches(parts.loader, epoch, seconds)
            if not batches:
                raise Unmeasurable("the loader gave no batch any more")
        parts.loader.close()  # its workers must not go on beside the ceiling
        if settings.ceiling and batches:
            told(0, "ceiling")
            with noted(found, "ceiling"):
                found.ceiling = ceiling(parts, batches, seconds, accumulate, sync=settings.sync)
                if found.ceiling is None:
                    raise Unmeasurable("too few steps in the time. Type for example: measure.probe_s=10")
        if (settings.loader_alone or with_contention) and not parts.loader.resident:
            _with_loader(found, parts, settings, with_contention, rebuild, epoch, accumulate, batches, told)
        if settings.cold:
            told(3, "cold file cache")
            with noted(found, "measure.cold=true"):
                if not isinstance(split.source, EncodedImages):
                    raise Unmeasurable("the samples are no files that this program knows of")
                steps = min(plan.num_steps, WARMUP_STEPS + max(ENOUGH_STEPS, int(seconds * rate / plan.batch_size)))
                found.cold, found.warm = cold_and_warm(
                    parts, rebuild, split.source, plan, epoch, steps, accumulate, settings.sync
                )


def _with_loader(
    found: Probed,
    parts: Parts,
    settings: MeasureConfig,
    with_contention: bool,
    rebuild: Callable[[], Loader],
    epoch: int,
    accumulate: int,
    batches: list[Batch],
    told: Callable[[int, str], None],
) -> None:
    beside = "ceiling with the loader beside it"
    with noted(found, "loader alone"), contextlib.closing(rebuild()) as loader:
        if settings.loader_alone:
            told(1, "loader alone")
            found.stages = loader.stages(settings.probe_s / 4)
            found.alone = loader_alone(loader, epoch, settings.probe_s, resources.cpu_seconds, parts.device)
            if found.alone is None:
                found.notes.append("loader alone: an epoch has too few batches to tell")
        if with_contention and loader.lookahead and batches:  # else nothing ever worked beside the step
            told(2, beside)
            with noted(found, beside):
                found.contended = ceiling(
                    parts, batches, settings.probe_s, accumulate, beside=loader, sync=settings.sync
                )
                if found.contended is None:
                    raise Unmeasurable("too few steps in the time. Type for example: measure.probe_s=10")


@contextmanager
def noted(found: Probed, name: str) -> Iterator[None]:
    """Why a probe has no figure goes to the notes."""
    try:
        yield
    except (Unmeasurable, UserError, OSError) as reason:
        found.notes.append(f"{name}: {reason}")
    except torch.OutOfMemoryError:
        found.notes.append(f"{name}: the device's memory holds no batches beside those of the run")
