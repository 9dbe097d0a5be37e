"""What is known about a run before it is tuned: its settings in effect, its data, and the loaders that could be tried. Runs in a process of
its own, because it needs torch and the data."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from loaderlab.config import (
    AUTO,
    DaliLoader,
    NativeLoader,
    SpdlLoader,
    TrainConfig,
    TuneConfig,
    WrongUsage,
    refuse,
)
from loaderlab.tuning.candidate import DALI, NATIVE, RESIDENT, SPDL, Branch, Candidate
from loaderlab.tuning.trial import LEAST_STEPS, Facts
from loaderlab.tuning.without_effect import without_effect

if TYPE_CHECKING:  # they import torch
    from loaderlab.data.spec import DataSpec, Split
    from loaderlab.device.base import Device

PACKAGES = {SPDL: "spdl", DALI: "nvidia.dali"}
SIZED = 64  # images whose size is read to estimate the memory of all


def describe(config: TrainConfig, tune: TuneConfig) -> Facts:
    """What the tuner has to know before the first trial.

    Raises:
        UserError: the data or the settings cannot be used, or not be tuned.
    """
    from loaderlab import data
    from loaderlab.device.resolve import device_of
    from loaderlab.loaders.header import lift_pillow_limit
    from loaderlab.loaders.resolve import needs_gpu

    lift_pillow_limit()
    device = device_of(config)
    if why := needs_gpu(config.loader, device):
        raise WrongUsage(why)
    spec = data.build(config.data, lambda *_: None, whole_batches=config.has_whole_batches)
    _refuse_repeated(config, spec.train)
    current = _current(config, spec.train, device)
    branches = tuple(_branches(config, tune, spec.train, device, current))
    epoch_steps = _epoch_steps(config, spec)
    return Facts(
        current=current,
        branches=branches,
        epoch_steps=epoch_steps,
        batch_size=config.batch_size,
        batch_bytes=_batch_bytes(config, spec, device),
        samples_bytes=_samples_bytes(spec.train),
        takes_copies=device.capabilities.takes_copies,
        uses_host_cores=device.capabilities.uses_host_cores,
        in_dev_shm=not hasattr(os, "memfd_create"),
        device_bytes=device.free_bytes,
        emulated=config.accelerator.title if config.accelerator.is_emulated else "",
        remedy=_remedy(config, spec.train),
        can_start=multiprocessing.get_all_start_methods(),
        no_gaps="" if epoch_steps else "the dataset has no length",
        notes=without_effect(tune, branches),
    )


def _refuse_repeated(config: TrainConfig, split: Split) -> None:
    """Raises:
    WrongUsage: each worker would yield all samples of the dataset.
    """
    from loaderlab.data.spec import UserItems

    source = split.source
    if isinstance(source, UserItems) and source.iterable and not source.sharded:
        raise refuse(
            "data.sharded",
            "false",
            "this dataset is iterable, and each of N workers would yield all of its samples, so that each sample would come N times. "
            "Give each worker a share of them in its __iter__, by torch.utils.data.get_worker_info()",
            "data.sharded=true",
            is_example=False,
        )


def _batch_bytes(config: TrainConfig, spec: DataSpec, device: Device) -> int:
    """The memory of a full batch."""
    from loaderlab.loaders.first_batch import batch_bytes, first_batch
    from loaderlab.runs.loader_set import LoaderSet
    from loaderlab.runs.shared_memory import sample_bytes
    from loaderlab.system.terminal import quiet_terminal

    if not spec.whole_batches:
        return config.batch_size * sample_bytes(spec)
    return batch_bytes(first_batch(spec.train, LoaderSet(config, quiet_terminal()).plan(spec), device))


def _epoch_steps(config: TrainConfig, spec: DataSpec) -> int | None:
    """Steps of an epoch; None if an iterable dataset does not say.

    Raises:
        WrongUsage: they are too few to measure anything.
    """
    from loaderlab.runs.loader_set import LoaderSet
    from loaderlab.system.terminal import quiet_terminal

    num_samples = spec.train.num_samples
    if num_samples is None:
        return None
    steps = LoaderSet(config, quiet_terminal()).plan(spec).num_steps
    if steps >= LEAST_STEPS:
        return steps
    if config.measure.epoch_steps is not None and config.measure.epoch_steps < LEAST_STEPS:
        allowed = f"the tuner needs at least {LEAST_STEPS} steps in an epoch"
        raise refuse("measure.epoch_steps", config.measure.epoch_steps, allowed, "measure.epoch_steps=null")
    reason = f"an epoch has {steps} steps ({num_samples} samples), and the tuner needs at least {LEAST_STEPS}"
    if num_samples < LEAST_STEPS:
        raise refuse("data", config.data.name, reason, "a larger data set", is_example=False)
    smaller = max(1, num_samples // (2 * LEAST_STEPS))
    raise refuse("batch_size", config.batch_size, reason, f"batch_size={smaller}")


def _current(config: TrainConfig, split: Split, device: Device) -> Candidate:
    """The settings that the configuration has in effect."""
    from loaderlab.loaders.resolve import dali_settings, native_settings, spdl_settings

    match config.loader:
        case NativeLoader():
            native = native_settings(config.loader, split, device)
            return Candidate(
                Branch(NATIVE),
                native.num_workers,
                native.prefetch_factor,
                pin_memory=native.copying.pin_memory,
                side_stream=native.copying.side_stream,
                persistent=native.persistent_workers if native.num_workers else None,
                start_method=None if config.loader.start_method == AUTO else native.start_method,
            )
        case SpdlLoader():
            spdl = spdl_settings(config.loader, split, device)
            return Candidate(
                Branch(SPDL),
                spdl.num_threads,
                spdl.buffer_size,
                pin_memory=spdl.copying.pin_memory,
                side_stream=spdl.copying.side_stream,
            )
        case DaliLoader():
            dali = dali_settings(config.loader, split, device)
            return Candidate(Branch(DALI), dali.num_threads, dali.prefetch_queue_depth)
    raise AssertionError(config.loader)


def _branches(
    config: TrainConfig, tune: TuneConfig, split: Split, device: Device, current: Candidate
) -> Iterator[Branch]:
    """The loaders that may be tried, the current one first. Whether they do the same work is checked later."""
    from loaderlab.data.spec import EncodedImages, ImageArrays, UserItems, Vectors

    own, source = current.branch.backend, split.source
    requested = None if tune.backends == AUTO else tuple(tune.backends)
    reads_ids = not (isinstance(source, UserItems) and source.iterable) and not split.whole_batches
    usable = {
        NATIVE: True,
        SPDL: reads_ids,
        DALI: reads_ids,
        RESIDENT: isinstance(source, EncodedImages | ImageArrays) or (isinstance(source, Vectors) and not source.work),
    }
    backends = [own]
    for backend in (NATIVE, SPDL, DALI, RESIDENT) if requested is None else requested:
        if backend == own:
            continue
        package = PACKAGES.get(backend)
        if package is not None and importlib.util.find_spec(package.partition(".")[0]) is None:
            if requested is not None:
                raise refuse("tune.backends", backend, f"the package {package} is not installed", "tune.backends=auto")
        elif usable[backend]:
            backends.append(backend)
    yield from map(Branch, backends)
    for backend in backends:
        yield from (Branch(backend, (change,)) for change in _also(config, tune, split, device, backend))


def _also(
    config: TrainConfig, tune: TuneConfig, split: Split, device: Device, backend: str
) -> Iterator[tuple[str, str]]:
    """The changes of a loader's work that are requested and apply to a backend: the other value of each setting."""
    from loaderlab.data.spec import EncodedImages

    encoded, loader = isinstance(split.source, EncodedImages), config.loader
    if "decoder" in tune.also and encoded and backend != DALI:
        other = "pillow" if getattr(loader, "decoder", "torchcodec") == "torchcodec" else "torchcodec"
        yield "loader.decoder", other
    if "decode" in tune.also and encoded and backend == DALI and device.capabilities.decodes_images:
        yield "loader.decode", "mixed" if isinstance(loader, DaliLoader) and loader.decode == "cpu" else "cpu"
    if "normalize_on" in tune.also and split.normalization is not None:
        yield "data.transform.normalize_on", "loader" if split.normalization.on_device else "device"
    if "in_order" in tune.also and backend == NATIVE:
        yield "loader.in_order", "false" if not isinstance(loader, NativeLoader) or loader.in_order else "true"


def _samples_bytes(split: Split) -> int | None:
    """The memory of all samples on the device; None if they cannot stay there. Images are padded to the largest size, which is estimated
    from some of them."""
    import numpy as np

    from loaderlab.data.spec import DataError, EncodedImages, ImageArrays, Vectors
    from loaderlab.loaders.decode import image_size

    source = split.source
    if isinstance(source, ImageArrays):
        return int(source.images.nbytes)
    if isinstance(source, Vectors):
        return int(source.inputs.nbytes)
    if not isinstance(source, EncodedImages):
        return None
    sizes = []
    for index in np.unique(np.linspace(0, len(source) - 1, SIZED).astype(np.int64)).tolist():
        try:
            sizes.append(image_size(source.read(index)))
        except (DataError, OSError):
            continue  # a trial will report it
    return 3 * len(source) * max(h for h, _ in sizes) * max(w for _, w in sizes) if sizes else None


def _remedy(config: TrainConfig, split: Split) -> str:
    """What smaller stored images would gain; empty if that is nothing, or not known."""
    from loaderlab.data.spec import DataError
    from loaderlab.device.threads import torch_threads
    from loaderlab.probes.smaller_images import smaller_images

    try:
        with torch_threads(1):  # as in a worker
            gain = smaller_images(split, getattr(config.loader, "decoder", "torchcodec"))
    except (DataError, OSError):
        return ""
    return gain.sentence if gain is not None and gain.gain_x > 1 else ""
