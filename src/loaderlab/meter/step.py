"""The record of one step: its five phases on the host's and the device's clock. It does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.device.step_times import DeviceStep

PHASES = ("wait", "transfer", "forward", "backward", "optimizer")


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Host times in ns: the five phases, and ``other`` until the next step began. Their sum is the step time.

    Attributes:
        position: in its epoch, from 0.
        drained: the device had finished all its work when the host received the batch; None on a CPU.
        disturbed: a profiler was running, so the step is not measured.
        collective_ns: the part of the host's time in collectives: waiting for other ranks and exchanging gradients with them.
        lost_ms: of a step of a whole job of several ranks, which replaces `starved_ms`: see `loaderlab.diagnosis.ranks`.
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
    collective_ns: int = 0
    lost_ms: float | None = None

    @property
    def host_ns(self) -> int:
        return sum(self.host) + self.other

    @property
    def starved_ms(self) -> float:
        """Time in which the device was starved of data: min(idle, host wait) + delivery; on a CPU wait + transfer."""
        if self.lost_ms is not None:
            return self.lost_ms
        if self.device is None:
            return (self.host[0] + self.host[1]) / 1e6
        return min(self.device.idle, self.host[0] / 1e6) + self.device.delivery

    @property
    def length_ms(self) -> float:
        """Step time, from the end of the previous step to its own end, on the device's clock if there is one."""
        return self.host_ns / 1e6 if self.device is None else self.device.length

    @property
    def collective_ms(self) -> float:
        """Time in collectives, on the device's clock if there is one."""
        return self.collective_ns / 1e6 if self.device is None else self.device.collective

    @property
    def own_ms(self) -> float:
        """The step without its time in collectives: what this rank itself needed, for its data and its work."""
        return self.length_ms - self.collective_ms
