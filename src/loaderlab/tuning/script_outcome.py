"""From the verdict on a script to the result of a trial."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Any

from loaderlab import metrics
from loaderlab.attach.reading import JudgedLoader, Reading
from loaderlab.diagnosis.figures import NO_PROBES, evidence_of
from loaderlab.meter import resources
from loaderlab.tuning.first_batch import num_bytes
from loaderlab.tuning.script_order import LoaderPlace, Outcome
from loaderlab.tuning.trial import LEAST_STEPS, Measured


def outcome_of(
    reading: Reading,
    lengths: Mapping[tuple[str, ...], int],
    start_s: float,
    repeated: Collection[tuple[str, ...]] = (),
) -> Outcome:
    """The outcome of a trial in this process. A measurement that is too wide for a verdict is kept: the search makes no claim from it.

    Args:
        lengths: number of batches of loaders, by the stack of their place.
        start_s: from the start of the process to its first step.
        repeated: stacks of the loaders whose workers repeat the data.
    """
    if len(reading.job.loop.window) < LEAST_STEPS:  # without a training loader there are none
        return Outcome(reading.job.verdict.because)
    loader = reading.loaders[0]
    facts, loop = loader.facts, reading.job.loop
    samples = sum(step.num_samples for step in loop.steps)
    batches = lengths.get(facts.stack)
    # the median: a step can include a batch that was requested ahead, and the last one of an epoch is small
    batch_size = round(median(step.num_samples for step in loop.steps)) or facts.batch_size
    per_step = max(1, round(batch_size / facts.batch_size)) if facts.batch_size else 1
    return Outcome(
        measured=_measured(reading, samples, start_s),
        place=LoaderPlace(facts.stack, facts.offsets),
        made_at=loader.made_at,
        num_workers=facts.num_workers,
        prefetch_factor=facts.prefetch_factor,
        pin_memory=facts.pin_memory,
        persistent_workers=facts.persistent_workers,
        batch_size=batch_size,
        batches_per_step=per_step,
        epoch_steps=None if batches is None else batches // per_step,
        asynchronous=reading.program.asynchronous,
        repeats=facts.stack in repeated,
    )


def batch_bytes(loader: Any) -> int | None:
    """The size of a batch of a DataLoader, from its first sample; None if it does not show. Call it after the measurement."""
    sampler = loader.batch_sampler
    number = loader.batch_size or getattr(sampler, "batch_size", 0)
    with suppress(Exception):  # a data set without indices, or one of the user's that fails here
        if sampler is None:  # a sample is a whole batch
            return num_bytes(loader.collate_fn(loader.dataset[0])) or None
        return number * num_bytes(loader.collate_fn([loader.dataset[0]])) or None
    return None


def _measured(reading: Reading, samples: int, start_s: float) -> Measured:
    job: JudgedLoader = reading.job
    # the whole window counts, also if the starved share changed in it
    evidence = evidence_of(replace(job.loop, one_loader=False), NO_PROBES)
    used_s = job.loop.used.get("cpu_s")
    step_ms = job.figures[metrics.STEP_MS]
    rate = evidence.rate if samples and evidence.rate else 1e3 * (job.facts.batch_size or 1) / step_ms
    return Measured(
        rate=rate,
        starved_pct=evidence.starved_pct,
        starved_interval=evidence.starved_interval,
        step_ms=step_ms,
        num_steps=evidence.num_steps,
        gap_ms=job.figures.get(metrics.EPOCH_GAP_MS),
        late_steps=evidence.late_steps,
        torch_threads=reading.program.threads,
        cpu_s_per_sample=used_s / samples if used_s is not None and samples else None,
        worker_mib=resources.mean_memory_mib(resources.child_pids()),
        host_mib=resources.proportional_memory_mib(),
        start_s=start_s,
    )
