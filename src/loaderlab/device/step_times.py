"""The times of one step on a device's own clock. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceStep:
    """One step on the compute stream's own clock, in ms.

    Attributes:
        gap: from the end of the step before to the moment the host had this batch in hand; about 0 where the
            device still had work queued.
        delivery: from there until the batch could be used.
    """

    gap: float
    delivery: float
    forward: float
    backward: float
    optimizer: float
    loss: float

    @property
    def length(self) -> float:
        return self.gap + self.delivery + self.forward + self.backward + self.optimizer
