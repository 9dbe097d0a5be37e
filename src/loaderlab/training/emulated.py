"""The step of an emulated accelerator: it queues work of a known duration and computes nothing."""

from __future__ import annotations

from loaderlab.config import AcceleratorConfig
from loaderlab.device.emulated import Emulated
from loaderlab.device.timeline import NS_PER_MS
from loaderlab.loaders.contract import Batch
from loaderlab.training.step import TrainingStep

FORWARD, BACKWARD, OPTIMIZER = range(3)


class EmulatedStep(TrainingStep):
    """Queues the work of each phase, and then uses the processor as long as queuing it takes on a real device.

    The work is queued first, as its first kernel would be: the accelerator works while the host queues the rest.

    Args:
        device: whose timeline the work is queued on.
        accelerator: its speed.
        batch_size: of the run.
    """

    def __init__(self, device: Emulated, accelerator: AcceleratorConfig, batch_size: int) -> None:
        self._device, self._accelerator = device, accelerator
        self._sample_ms = accelerator.sample_ms(batch_size)
        self._num_samples = 0  # of the current batch

    @property
    def learning_rate(self) -> None:
        return None

    def forward(self, batch: Batch) -> None:
        self._num_samples = len(batch)
        self._queue(FORWARD)

    def backward(self, loss: object, size: int, *, updates: bool) -> None:
        self._queue(BACKWARD)
        if updates and self._accelerator.allreduce_ms:
            duration_ns = round(self._accelerator.allreduce_ms * NS_PER_MS)
            self._device.timeline.queue(self._device.current_stream(), duration_ns, "all-reduce")

    def update(self) -> bool:
        self._queue(OPTIMIZER)
        return True

    def correct(self, factor: float) -> None:
        """There are no gradients."""

    def end(self) -> None:
        """The host waits here if it is too many steps ahead."""
        self._device.timeline.end_step(self._device.current_stream())

    def _queue(self, phase: int) -> None:
        share, timeline = self._accelerator.phases[phase], self._device.timeline
        duration_ns = round(share * self._num_samples * self._sample_ms * NS_PER_MS)
        timeline.queue(self._device.current_stream(), duration_ns, ("forward", "backward", "optimizer")[phase])
        timeline.clock.spend(round(share * self._accelerator.host_ms * NS_PER_MS))
