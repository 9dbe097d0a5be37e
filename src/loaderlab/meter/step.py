"""The record of one step: its five phases, on the host's clock and on the device's. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.device.step_times import DeviceStep

PHASES = ("wait", "transfer", "forward", "backward", "optimizer")


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Host times in ns: the phases, and ``other`` until the next step began; they add up to the step.

    Attributes:
        position: in its epoch, counted from 0.
        drained: whether the device had finished all its work when the host had the batch; None on a CPU.
        disturbed: a profiler ran beside it: not a step to measure.
    """

    epoch: int
    step: int
    position: int
    num_samples: int
    host: tuple[int, int, int, int, int]
    other: int = 0
    loss: float = float("nan")
    device: DeviceStep | None = None
    drained: bool | None = None
    disturbed: bool = False

    @property
    def host_ns(self) -> int:
        return sum(self.host) + self.other

    @property
    def starved_ms(self) -> float:
        """In which the device was dry for want of data: min(gap, host wait) + delivery; on one clock wait + transfer."""
        if self.device is None:
            return (self.host[0] + self.host[1]) / 1e6
        return min(self.device.gap, self.host[0] / 1e6) + self.device.delivery

    @property
    def length_ms(self) -> float:
        """From the end of the step before to its own, on the device's clock where there is one."""
        return self.host_ns / 1e6 if self.device is None else self.device.length
