"""The capabilities of a loader and the settings that could change them. Diagnosis uses only these, and no loader's name.

Does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

Choice = tuple[str, str]  # a setting and the recommended value


@dataclass(frozen=True)
class Makers:
    """The workers or threads that build batches in parallel.

    Attributes:
        count: 0 if the training process builds the batches itself.
        setting: the setting that gives the count.
        are_processes: worker processes; otherwise threads of the training process, which share its interpreter.
        whole_batches: each builds its own batch; otherwise all work on one batch.
    """

    count: int
    setting: str
    are_processes: bool
    whole_batches: bool

    @property
    def kind(self) -> str:
        """The usual word for them."""
        return "workers" if self.are_processes else "threads"


@dataclass(frozen=True)
class Queue:
    """The queue of finished batches: its length, and the setting that gives the length (per maker, if it counts per maker)."""

    length: int
    setting: str


@dataclass(frozen=True)
class Copying:
    """How batches in host memory are copied to the device. None: unknown."""

    pin_memory: bool
    non_blocking: bool
    side_stream: bool | None


@dataclass(frozen=True)
class LoaderCapabilities:
    """Capabilities of one loader with its current settings.

    Attributes:
        makers: None if the number of workers or threads cannot be set.
        lookahead: batches that are prepared ahead of the consumer; the measured window begins after this many.
        parallel: batches that are built at the same time, so this many can arrive in one burst.
        loads_nothing: it serves batches that are already on the device, so there is no loading to measure.
        keeps_samples_on_device: its samples stay in the device's memory from epoch to epoch.
        prepares_on_device: its transfer is work of the device (selecting, transforming, copying within its memory), not a copy
            from the host.
        decodes_on_device: images are decoded by the device, which gives slightly different pixels from libjpeg.
        decoder_levels: the mean difference of the device's decoder from the CPU's, of 255, as measured; None if it is unknown.
        copying: None if it delivers batches on the device itself.
        collates_samples: a batch is collated from single samples; ``loader.batched=true`` builds the whole batch at once.
        keeps_makers: the workers or threads stay alive from epoch to epoch.
        faster_decoder: another image decoder that is faster than the current one.
        decode_on_device, keep_on_device, use_processes, use_threads: the choice that decodes images on the device, that keeps
            samples in its memory, that uses worker processes with their own interpreters, and that uses threads, which do not
            have to send batches to another process.
        queue: None if it does not work ahead.
    """

    makers: Makers | None = None
    lookahead: int = 0
    parallel: int = 1
    loads_nothing: bool = False
    keeps_samples_on_device: bool = False
    prepares_on_device: bool = False
    decodes_on_device: bool = False
    decoder_levels: float | None = None
    copying: Copying | None = None
    collates_samples: bool = False
    keeps_makers: bool = True
    faster_decoder: Choice | None = None
    decode_on_device: Choice | None = None
    keep_on_device: Choice | None = None
    use_processes: Choice | None = None
    use_threads: Choice | None = None
    queue: Queue | None = None

    @property
    def works_ahead(self) -> bool:
        return self.lookahead > 0

    @property
    def num_processes(self) -> int:
        """Its worker processes."""
        return self.makers.count if self.makers is not None and self.makers.are_processes else 0

    @property
    def busy_cores(self) -> int:
        """Cores that the workers or threads keep busy, in addition to those of the training process."""
        return self.makers.count if self.makers is not None else 0
