"""The times of one step on the device's clock. It does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceStep:
    """One step on the compute stream's clock, in ms.

    Attributes:
        gap: from the end of the previous step until the host had received this batch; about 0 if the device still had
            work queued.
        delivery: from then until the batch was ready on the device.
        trailing: the part of the gap until the device had finished what was queued before the host asked for the batch, such
            as work after the step's last mark, and the host had asked. The device does not wait for data in this part.
        collective: the part of forward and backward in collectives: waiting for other ranks and exchanging gradients with them.
    """

    gap: float
    delivery: float
    forward: float
    backward: float
    optimizer: float
    loss: float
    trailing: float = 0.0
    collective: float = 0.0

    @property
    def idle(self) -> float:
        """The part of the gap in which the device had nothing to do and the host had asked for the batch."""
        return self.gap - self.trailing

    @property
    def length(self) -> float:
        """Step time: the sum of all parts."""
        return self.gap + self.delivery + self.forward + self.backward + self.optimizer
