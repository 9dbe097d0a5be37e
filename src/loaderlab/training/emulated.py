"""The step of an emulated accelerator: it queues work of a known duration and computes nothing."""

from __future__ import annotations

from loaderlab.config import AcceleratorConfig
from loaderlab.device.emulated import Emulated
from loaderlab.device.timeline import NS_PER_MS
from loaderlab.loaders.contract import Batch
from loaderlab.training.rank_group import RankGroup
from loaderlab.training.step import TrainingStep

FORWARD, BACKWARD, OPTIMIZER = range(3)
PHASES = ("forward", "backward", "optimizer")  # their names in the timeline's log


class EmulatedStep(TrainingStep):
    """Queues the work of each phase, and then uses the processor as long as queuing it takes on a real device.

    The work is queued first, as its first kernel would be: the accelerator works while the host queues the rest.

    Args:
        device: whose timeline the work is queued on.
        accelerator: its speed.
        batch_size: of the run.
        group: the ranks of the job, which do their all-reduce together; None with one rank.
    """

    def __init__(
        self, device: Emulated, accelerator: AcceleratorConfig, batch_size: int, group: RankGroup | None = None
    ) -> None:
        self._device, self._timeline, self._group = device, device.timeline, group
        slowdown = accelerator.slowdown_of(0 if group is None else group.ranks.rank)
        sample_ns = slowdown * accelerator.sample_ms(batch_size) * NS_PER_MS
        self._sample_ns = [share * sample_ns for share in accelerator.phases]  # of each phase
        self._host_ns = [round(share * accelerator.host_ms * NS_PER_MS) for share in accelerator.phases]
        self._allreduce_ns = round(accelerator.allreduce_ms * NS_PER_MS)
        self._num_samples = 0  # of the current batch

    @property
    def learning_rate(self) -> None:
        return None

    def forward(self, batch: Batch, *, updates: bool = True) -> None:
        self._num_samples = len(batch)
        self._queue(FORWARD)

    def backward(self, loss: object, size: int, *, updates: bool) -> None:
        self._queue(BACKWARD)
        if not updates:
            return
        if self._group is not None:
            self._meet(self._group)
        if self._allreduce_ns:
            self._timeline.queue(self._device.current_stream(), self._allreduce_ns, "all-reduce")

    def _meet(self, group: RankGroup) -> None:
        """Delays the stream until the last rank's stream has reached its all-reduce. The host waits until all hosts have queued theirs."""
        self.collectives_begin()
        stream = self._device.current_stream()
        reached_ns = max(self._timeline.clock.now(), stream.busy_until_ns)
        stream.wait_until(group.largest(reached_ns + group.clock_offset_ns) - group.clock_offset_ns)

    def update(self) -> bool:
        self._queue(OPTIMIZER)
        return True

    def correct(self, factor: float) -> None:
        """There are no gradients."""

    def end(self) -> None:
        """The host waits here if it is too many steps ahead."""
        self._timeline.end_step(self._device.current_stream())

    def _queue(self, phase: int) -> None:
        duration_ns = round(self._num_samples * self._sample_ns[phase])
        self._timeline.queue(self._device.current_stream(), duration_ns, PHASES[phase])
        self._timeline.clock.spend(self._host_ns[phase])
