"""The clock of the device that a watched program trains on."""

from __future__ import annotations

from typing import Any

from loaderlab.device.base import Device


class DeviceClock:
    """Events on the stream on which the optimizer steps, as `loaderlab.attach.recorder.Clock`.

    A prefetcher may read its loader while another stream is the current one; the wait matters on the stream of the step.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream = device.current_stream()

    def now(self) -> Any:
        event = self._device.event(timed=True)
        event.record(self._stream)
        return event

    def reached(self, event: Any) -> bool:
        return bool(event.query())

    def ns(self, start: Any, end: Any) -> int:
        end.synchronize()
        return round(1e6 * float(start.elapsed_time(end)))


def clock_of(device: Device) -> DeviceClock | None:
    """The clock of a device that has one of its own."""
    return DeviceClock(device) if device.capabilities.asynchronous else None
