"""Compares a loader's work with the reference: samples, labels, batches, pixels and random draws.

See `check`. The reference is the native loader without workers and with Pillow, on samples spread over the split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loaderlab import data, loaders
from loaderlab.config import LoaderConfig, NativeLoader, ReplayLoader, TrainConfig
from loaderlab.data.spec import DataSpec, Split, UserItems
from loaderlab.device import resolve
from loaderlab.device.base import Device
from loaderlab.device.threads import torch_threads
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.header import lift_pillow_limit
from loaderlab.loaders.resolve import needs_gpu
from loaderlab.parity.draws import compare_draws
from loaderlab.parity.gradient_image import GradientImage
from loaderlab.parity.result import ParityResult, ResultBuilder
from loaderlab.parity.samples import SampleCheck, chosen_ids, loadable, part
from loaderlab.system.processes import error_line
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.records import NOT_APPLICABLE

NUM_GRADIENTS = 512  # samples of the gradient image per epoch; two epochs give twice as many draws
LEAST_BATCHES = 3  # per epoch; the batch size is reduced if necessary


def check(
    config: LoaderConfig,
    split: Split,
    *,
    batch_size: int,
    drop_last: bool,
    seed: int,
    device: Device,
    num_samples: int | None,
) -> ParityResult:
    """Compares a loader with the reference.

    Three epochs are compared sample by sample, with the transform's deterministic variant: two shuffled ones with the
    run's drop_last, and one in ascending order with the opposite drop_last. If the transform is random, two epochs of a
    gradient image follow.

    Args:
        batch_size: of the run; reduced if there would be fewer than three batches.
        num_samples: to compare; None: all.

    Raises:
        DataError, LoaderError: the loader fails before it can be compared.
    """
    if isinstance(config, ReplayLoader):
        return ParityResult("replay is a ceiling: it repeats the same batches")
    if isinstance(split.source, UserItems) and split.source.iterable:
        return ParityResult("an iterable dataset has no ids")
    assert split.num_samples is not None
    with torch_threads(1):  # on single images several threads are slower, on a busy machine many times slower
        return _check(config, split, batch_size, drop_last, seed, device, num_samples)


def _check(
    config: LoaderConfig,
    split: Split,
    batch_size: int,
    drop_last: bool,
    seed: int,
    device: Device,
    num_samples: int | None,
) -> ParityResult:
    assert split.num_samples is not None
    batch_size = min(batch_size, max(1, min(num_samples or split.num_samples, split.num_samples) // LEAST_BATCHES))
    ids = loadable(split, chosen_ids(split.num_samples, num_samples, batch_size))
    builder = ResultBuilder(num_samples=len(ids), num_epochs=3, batch_size=batch_size)
    chosen = part(split, ids)
    sample_check = SampleCheck(chosen, ids, device, batch_size, builder)
    in_order = not isinstance(config, NativeLoader) or config.in_order
    for shuffle, drop, num_epochs in ((True, drop_last, 2), (False, not drop_last, 1)):
        plan = EpochPlan(len(ids), batch_size, shuffle, drop, seed)
        loader = loaders.build(config, chosen, plan, device)
        try:
            for epoch in range(num_epochs):
                sample_check.epoch(loader, plan, epoch, in_order=in_order)
        finally:
            loader.close()
    spec = split.transform
    if spec is not None and (spec.random_crop or spec.flip > 0) and not builder.differs_in("shape", "dtype"):
        _check_draws(config, split, EpochPlan(NUM_GRADIENTS, batch_size, False, False, seed), device, builder)
    return builder.build()


def _check_draws(config: LoaderConfig, split: Split, plan: EpochPlan, device: Device, builder: ResultBuilder) -> None:
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        gradient = GradientImage(split)
        gradients = gradient.split(plan.num_samples, Path(folder))
        loader = loaders.build(config, gradients, plan, device)
        try:
            compare_draws(loader, gradients, gradient, plan, builder)
        finally:
            loader.close()


def check_run(config: TrainConfig, spec: DataSpec, device: Device) -> ParityResult:
    """`check` of a run's training samples with the run's loader settings."""
    return check(
        config.loader,
        spec.train,
        batch_size=config.batch_size,
        drop_last=config.drop_last,
        seed=config.effective_seed,
        device=device,
        num_samples=config.measure.parity_samples,
    )


def check_all(arms: Mapping[str, TrainConfig], terminal: Terminal) -> dict[str, dict[str, Any]]:
    """Checks the loaders of a sweep one after the other, and prints a line for each.

    Args:
        arms: name to configuration.

    Returns:
        Name to `ParityResult.as_dict`. A check that fails with an error counts as not checked: the arm's own job reports
        the error.
    """
    lift_pillow_limit()
    specs: dict[str, DataSpec] = {}
    results: dict[str, dict[str, Any]] = {}
    for name, config in arms.items():
        try:
            device = resolve.device_of(config)
            gpu_reason = needs_gpu(config.loader, device)
            whole = config.has_whole_batches
            described_data = f"{config.data!r} {whole}"
            if not gpu_reason and described_data not in specs:
                with terminal.progress("preparing the samples", None):
                    specs[described_data] = data.build(config.data, lambda *_: None, whole_batches=whole)
            if gpu_reason:
                result = ParityResult(f"{NOT_APPLICABLE}: {gpu_reason}")
            else:
                result = check_run(config, specs[described_data], device)
        except Exception as error:
            result = ParityResult(error_line(error))
        terminal.say(f"  {name}: {result}")
        results[name] = result.as_dict()
    return results
