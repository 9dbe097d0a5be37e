"""What a loader is able to do and what could be changed about it. Diagnosis reads this and knows no loader by name.

Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass

Choice = tuple[str, str]  # a setting and the value to give it


@dataclass(frozen=True)
class Makers:
    """The workers or threads that make batches side by side.

    Attributes:
        count: 0 if the training process makes the batches itself.
        setting: whose value is that count.
        are_processes: worker processes; otherwise threads of the training process, which share its interpreter.
        whole_batches: each makes a batch of its own; otherwise all of them work on one batch.
    """

    count: int
    setting: str
    are_processes: bool
    whole_batches: bool

    @property
    def kind(self) -> str:
        """As people call them."""
        return "workers" if self.are_processes else "threads"


@dataclass(frozen=True)
class Queue:
    """Batches that wait, finished, for the step: how many, and the setting whose value that is (for each maker, if it is
    so counted)."""

    length: int
    setting: str


@dataclass(frozen=True)
class Copying:
    """How batches in host memory are copied to the device. None: not known."""

    pin_memory: bool
    non_blocking: bool
    side_stream: bool | None


@dataclass(frozen=True)
class LoaderCapabilities:
    """Capabilities of one loader as it is set up.

    Attributes:
        makers: None if nothing can be set about who makes the batches.
        lookahead: batches that are prepared ahead of the consumer: the measured window opens after as many.
        parallel: batches that are in the making at the same time: as many come in one burst.
        loads_nothing: it serves batches that are on the device already: there is no loading to measure.
        keeps_samples_on_device: its samples stay in the device's memory from epoch to epoch.
        decodes_on_device: images are decoded by the device, to slightly other pixels than libjpeg's.
        copying: None if it delivers on the device itself.
        collates_samples: a batch is collated from single samples; ``loader.batched=true`` builds it whole.
        keeps_makers: the makers stay from epoch to epoch.
        faster_decoder: another image decoder that is faster than the one in use.
        decode_on_device, keep_on_device, use_processes, use_threads: what to choose instead, for images to be decoded on the
            device, for samples to stay in its memory, for makers with an interpreter of their own, and for makers that hand
            nothing over to another process.
        queue: None if it does not work ahead.
    """

    makers: Makers | None = None
    lookahead: int = 0
    parallel: int = 1
    loads_nothing: bool = False
    keeps_samples_on_device: bool = False
    decodes_on_device: bool = False
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
    def busy_cores(self) -> int:
        """Cores that the makers keep busy beside the training process's own."""
        return self.makers.count if self.makers is not None else 0
