"""The effective settings of each loader (``auto`` resolved to workers, threads, pinning), and its capabilities."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, fields, is_dataclass

from loaderlab.config import AUTO, DaliLoader, HostLoader, LoaderConfig, NativeLoader, SpdlLoader
from loaderlab.data.spec import EncodedImages, Split, UserItems
from loaderlab.device.base import Device
from loaderlab.loaders.capabilities import Choice, Copying, LoaderCapabilities, Makers, Queue
from loaderlab.system.machine import worker_share
from loaderlab.system.versions import has_gil

BETWEEN_STAGES = 5  # batches in SPDL 0.8 in addition to those that are being built and those in its sink
KEEP_ON_DEVICE: Choice = ("loader", "resident")
DECODE_ON_DEVICE: Choice = ("loader", "dali")


@dataclass(frozen=True)
class NativeSettings:
    """Effective settings of the native loader. ``prefetch_factor`` and ``start_method`` are None without workers."""

    num_workers: int
    prefetch_factor: int | None
    persistent_workers: bool
    copying: Copying
    start_method: str | None
    decoder: str


@dataclass(frozen=True)
class SpdlSettings:
    """Effective settings of the SPDL loader. ``gil``: on or off, in this Python."""

    num_threads: int
    buffer_size: int
    copying: Copying
    decoder: str
    gil: str


@dataclass(frozen=True)
class DaliSettings:
    """Effective settings of the DALI loader.

    Attributes:
        decode: cpu or mixed.
        jpeg_decoder: the processor that decodes JPEGs if ``decode`` is mixed: gpu, cpu or unknown, as observed on this device.
        jpeg_difference_levels: mean difference of its pixels from the CPU decoder's, of 255, on a 4:2:0 image of noise.
    """

    num_threads: int
    decode: str
    prefetch_queue_depth: int
    jpeg_decoder: str | None = None
    jpeg_difference_levels: float | None = None


@dataclass(frozen=True)
class ResidentSettings:
    """Effective settings of the resident loader."""

    decoder: str
    samples_mib: float


@dataclass(frozen=True)
class ReplaySettings:
    """Effective settings of the replay loader."""

    num_batches: int


LoaderSettings = NativeSettings | SpdlSettings | DaliSettings | ResidentSettings | ReplaySettings


def in_force(settings: LoaderSettings | Copying) -> dict[str, str | None]:
    """Each effective setting with its value as text, for the record; None if it does not apply."""
    values: dict[str, str | None] = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if is_dataclass(value):
            assert isinstance(value, Copying)
            values |= in_force(value)
        else:
            values[entry.name] = None if value is None else str(value)
    return values


def needs_gpu(config: LoaderConfig, device: Device) -> str:
    """Why the loader needs a GPU instead of this device, and what to type; empty if it does not."""
    capabilities = device.capabilities
    enough = capabilities.takes_copies if isinstance(config, HostLoader) else capabilities.decodes_images
    return "" if enough else config.needs_gpu(emulated=capabilities.emulated)


def auto_workers(split: Split, device: Device) -> int:
    """The number of workers by `worker_share`. 0 for data in memory without per-sample work, because sending a batch to another
    process costs more than building it."""
    if isinstance(split.source, UserItems) and split.source.iterable and not split.source.sharded:
        return 1
    if split.ready_in_memory:
        return 0
    return _worker_share(device)


def auto_threads(split: Split, device: Device) -> int:
    """The number of threads: for encoded images, the native loader's number of workers. Otherwise one, because only one thread
    at a time runs Python code, and a user's dataset may not be thread-safe."""
    return auto_workers(split, device) if isinstance(split.source, EncodedImages) else 1


def _worker_share(device: Device) -> int:
    return worker_share(uses_host_cores=device.capabilities.uses_host_cores)


def copying(config: HostLoader, device: Device) -> Copying:
    """How a loader that builds batches in host memory copies them to this device."""
    pinned = device.capabilities.takes_copies if config.pin_memory == AUTO else bool(config.pin_memory)
    non_blocking = pinned if config.non_blocking == AUTO else bool(config.non_blocking)
    side_stream = pinned and non_blocking if config.side_stream == AUTO else bool(config.side_stream)
    return Copying(pinned, non_blocking, side_stream)


def native_settings(config: NativeLoader, split: Split, device: Device) -> NativeSettings:
    """The effective settings of a native loader for these samples on this device."""
    num_workers = auto_workers(split, device) if config.num_workers == AUTO else int(config.num_workers)
    # always explicit: the job of a sweep was itself spawned, and its workers would inherit that method
    method = multiprocessing.get_all_start_methods()[0] if config.start_method == AUTO else config.start_method
    prefetch = 2 if config.prefetch_factor == AUTO else int(config.prefetch_factor)
    return NativeSettings(
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        persistent_workers=num_workers > 0 if config.persistent_workers == AUTO else bool(config.persistent_workers),
        copying=copying(config, device),
        start_method=method if num_workers else None,
        decoder=config.decoder,
    )


def native_capabilities(settings: NativeSettings, *, batched: bool) -> LoaderCapabilities:
    """Capabilities of a native loader. ``batched``: a worker builds whole batches."""
    return LoaderCapabilities(
        makers=Makers(settings.num_workers, "loader.num_workers", are_processes=True, whole_batches=True),
        lookahead=settings.num_workers * (settings.prefetch_factor or 0),
        parallel=max(1, settings.num_workers),
        copying=settings.copying,
        collates_samples=not batched,
        keeps_makers=settings.persistent_workers,
        faster_decoder=_faster_decoder(settings.decoder),
        decode_on_device=DECODE_ON_DEVICE,
        keep_on_device=KEEP_ON_DEVICE,
        use_threads=("loader", "spdl"),
        queue=None if settings.prefetch_factor is None else Queue(settings.prefetch_factor, "loader.prefetch_factor"),
    )


def spdl_settings(config: SpdlLoader, split: Split, device: Device) -> SpdlSettings:
    """The effective settings of an SPDL loader for these samples on this device."""
    return SpdlSettings(
        num_threads=auto_threads(split, device) if config.num_threads == AUTO else int(config.num_threads),
        buffer_size=config.buffer_size,
        copying=copying(config, device),
        decoder=config.decoder,
        gil="on" if has_gil() else "off",
    )


def spdl_capabilities(settings: SpdlSettings) -> LoaderCapabilities:
    return LoaderCapabilities(
        makers=Makers(settings.num_threads, "loader.num_threads", are_processes=False, whole_batches=True),
        lookahead=settings.num_threads + settings.buffer_size + BETWEEN_STAGES,
        parallel=settings.num_threads,
        copying=settings.copying,
        faster_decoder=_faster_decoder(settings.decoder),
        decode_on_device=DECODE_ON_DEVICE,
        keep_on_device=KEEP_ON_DEVICE,
        use_processes=("loader", "native"),
        queue=Queue(settings.buffer_size, "loader.buffer_size"),
    )


def dali_settings(config: DaliLoader, split: Split, device: Device) -> DaliSettings:
    """The effective settings of a DALI loader for these samples on this device."""
    decodes_images = device.capabilities.decodes_images
    decode = ("mixed" if decodes_images else "cpu") if config.decode == AUTO else str(config.decode)
    return DaliSettings(
        num_threads=_worker_share(device) if config.num_threads == AUTO else int(config.num_threads),
        decode=decode if isinstance(split.source, EncodedImages) else "cpu",
        prefetch_queue_depth=config.prefetch_queue_depth,
    )


def dali_capabilities(settings: DaliSettings, device: Device) -> LoaderCapabilities:
    decodes_on_device = settings.decode == "mixed" and settings.jpeg_decoder != "cpu"
    return LoaderCapabilities(
        makers=Makers(settings.num_threads, "loader.num_threads", are_processes=False, whole_batches=False),
        lookahead=settings.prefetch_queue_depth,
        prepares_on_device=device.capabilities.decodes_images,
        decodes_on_device=decodes_on_device,
        decoder_levels=settings.jpeg_difference_levels if decodes_on_device else None,
        decode_on_device=None if settings.decode == "mixed" else ("loader.decode", "mixed"),
        copying=Copying(True, True, True) if device.capabilities.emulated else None,
        keep_on_device=KEEP_ON_DEVICE,
        queue=Queue(settings.prefetch_queue_depth, "loader.prefetch_queue_depth"),
    )


def _faster_decoder(decoder: str) -> Choice | None:
    return ("loader.decoder", "torchcodec") if decoder == "pillow" else None
