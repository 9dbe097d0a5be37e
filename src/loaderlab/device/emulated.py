"""An emulated accelerator: a timeline of a known speed on the host's clock. Its tensors stay in host memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from loaderlab.config import EMULATED, AcceleratorConfig
from loaderlab.device import capabilities
from loaderlab.device.base import Device, Event, Stream
from loaderlab.device.capabilities import DeviceCapabilities
from loaderlab.device.cpu import processor
from loaderlab.device.timeline import NS_PER_MS, Clock, RealClock, Timeline
from loaderlab.device.timeline import Event as TimelineEvent
from loaderlab.device.timeline import Stream as TimelineStream
from loaderlab.system.machine import available_memory

LOG = 100_000  # pieces of work that the log keeps: more than any measurement needs, and a few MiB


class _Chosen(threading.local):
    """The stream on which a thread queues work; each thread begins with the first one."""

    def __init__(self, stream: TimelineStream) -> None:
        self.stream = stream


class Emulated(Device):
    """A device on which work takes the time that its settings say.

    Args:
        accelerator: its settings.
        batch_size: of the run.
        clock: of the host.
        accumulate: steps per update, for its name.

    Attributes:
        timeline: its streams and the log of its work.
    """

    kind = EMULATED
    torch_device = torch.device("cpu")

    def __init__(
        self, accelerator: AcceleratorConfig, batch_size: int, clock: Clock | None = None, accumulate: int = 1
    ) -> None:
        self.timeline = Timeline(clock or RealClock(), accelerator.steps_ahead, log_size=LOG)
        self._description, self._accelerator = accelerator.describe(batch_size, accumulate), accelerator
        self._chosen = _Chosen(self.timeline.default)

    @property
    def capabilities(self) -> DeviceCapabilities:
        return capabilities.EMULATED

    @property
    def name(self) -> str:
        """Its speed, the source of the speed, and the host that feeds it."""
        return f"{self._description}, fed by {processor()}"

    @property
    def title(self) -> str:
        return self.name

    def synchronize(self) -> None:
        self.timeline.synchronize()

    def event(self, *, timed: bool = False) -> Event:
        return TimelineEvent(self.timeline, enable_timing=timed)

    def current_stream(self) -> TimelineStream:
        return self._chosen.stream

    def side_stream(self) -> Stream:
        return TimelineStream(self.timeline)

    @contextmanager
    def on_stream(self, stream: Any) -> Iterator[None]:
        before, self._chosen.stream = self.current_stream(), stream
        try:
            yield
        finally:
            self._chosen.stream = before

    def copy(self, tensor: torch.Tensor, *, non_blocking: bool, pinned: bool) -> torch.Tensor:
        """The same tensor; the copy takes its time on the current stream, twice as long from pageable memory."""
        duration_ns = round(self._accelerator.copy_ms(tensor.nbytes, pinned=pinned) * NS_PER_MS)
        copied = self.timeline.queue(self.current_stream(), duration_ns, "copy")
        if not (pinned and non_blocking):
            self.timeline.clock.sleep_until(copied.stop_ns)
        return tensor

    @property
    def free_bytes(self) -> int:
        return available_memory()

    def __str__(self) -> str:
        return EMULATED
