"""The setup of a run, as the diagnosis needs it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from loaderlab.config import TrainConfig
from loaderlab.data.spec import EncodedImages, UserItems
from loaderlab.diagnosis.evidence import RequestedSpeed, Setup
from loaderlab.runs.context import RunContext
from loaderlab.runs.prepare import Prepared
from loaderlab.system import machine

MLPERF = "MLPerf Storage"  # the start of the source of its presets
MLPERF_SETTINGS = tuple(  # a preset with another value of these is not MLPerf Storage's
    f"accelerator.{name}=" for name in ("step_ms", "samples_per_s", "batch_size", "allreduce_ms", "min_utilization")
)


def setup_of(context: RunContext, prepared: Prepared) -> Setup:
    """The setup of a prepared run."""
    config, split = context.config, prepared.spec.train
    normalization, source = split.normalization, split.source
    return Setup(
        loader=prepared.parts.loader.capabilities,
        device=prepared.device.capabilities,
        cores=machine.rank_cores(),
        threads=torch.get_num_threads(),
        batch_size=config.batch_size,
        precision=config.precision.name,
        in_memory=split.in_memory,
        fits_on_device=split.ready_in_memory,
        image_files=isinstance(source, EncodedImages),
        normalized_by_loader=normalization is not None and not normalization.on_device,
        compiled=config.model.compile,
        auto_threads=prepared.settings.threads_by_cores,
        max_makers=1 if isinstance(source, UserItems) and source.iterable and not source.sharded else None,
        accelerator=requested_speed(
            config,
            context.job.overrides,
            _mean_batch(config, prepared),
            _copy_ms(config, prepared),
            fits_data=prepared.mismatch is None,
        ),
    )


def requested_speed(
    config: TrainConfig,
    overrides: Sequence[str],
    mean_batch: float | None = None,
    copy_ms: float = 0.0,
    *,
    fits_data: bool = True,
) -> RequestedSpeed | None:
    """The speed of the emulated accelerator; None if the step runs on a real device.

    Args:
        overrides: the user's own. A speed or a threshold among them is not MLPerf Storage's.
        mean_batch: see `AcceleratorConfig.requested_rate`.
        copy_ms: time to copy a batch, ms.
        fits_data: the speed is for samples like these; otherwise it is not MLPerf Storage's.
    """
    accelerator = config.accelerator
    if not accelerator.is_emulated:
        return None
    is_changed = any(text.lstrip("+").startswith(MLPERF_SETTINGS) for text in overrides)
    return RequestedSpeed(
        title=accelerator.title,
        rate=accelerator.requested_rate(config.batch_size, config.accumulate, mean_batch),
        host_ms=accelerator.host_ms,
        min_utilization=accelerator.min_utilization,
        is_mlperf=accelerator.source.startswith(MLPERF) and fits_data and not is_changed,
        copy_ms=copy_ms,
    )


def _mean_batch(config: TrainConfig, prepared: Prepared) -> float | None:
    """Mean number of samples in an epoch's batches; None if it is not known."""
    num_samples, num_steps = prepared.spec.train.num_samples, prepared.parts.loader.num_steps
    if not num_samples or not num_steps:
        return None
    return min(config.batch_size, num_samples / num_steps)


def _copy_ms(config: TrainConfig, prepared: Prepared) -> float:
    """The time to copy a batch to the emulated accelerator, ms; 0 if the loader's batches stay where they are."""
    copying = prepared.parts.loader.capabilities.copying
    if copying is None:
        return 0.0
    return config.accelerator.copy_ms(prepared.batch_bytes, pinned=copying.pin_memory)
