"""Peak memory of a loop, on the host and on the device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from statistics import fmean

from loaderlab.device.base import Device
from loaderlab.meter.resources import memory_by_process


class PeakMemory:
    """Reads memory outside the steps: call `after_step` after each step and `after_epoch` after each epoch.

    The device's peak leaves out the first step, in which cuDNN tries its algorithms, unless it is the only step.

    Args:
        host: the proportional set size of each process, by pid; None if the kernel does not report it.
        workers: pids of the loader's worker processes.

    Attributes:
        host_mib: the largest proportional set size, workers included; None if the kernel does not report it.
        worker_mib: the largest mean over the worker processes; None without workers.
        device_mib: None for a device without its own memory.
    """

    def __init__(
        self,
        device: Device,
        host: Callable[[], Mapping[int, float] | None] = memory_by_process,
        workers: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._device, self._host, self._workers = device, host, workers
        self.host_mib: float | None = None
        self.worker_mib: float | None = None
        self.device_mib: float | None = None

    def after_step(self, num_steps: int) -> None:
        """Reads memory after steps 1 and 2 only: a reading takes about 10 ms per process.

        Args:
            num_steps: of the loop so far.
        """
        if num_steps == 1:
            self.device_mib = self._device.peak_memory_mib()
            self._device.reset_peak_memory()
        elif num_steps == 2:  # still in the warm-up; workers may end before the epoch does
            self.after_epoch(num_steps)

    def after_epoch(self, num_steps: int) -> None:
        """Reads memory between epochs, when a slow reading delays no step.

        Args:
            num_steps: of the loop so far.
        """
        sizes = self._host()
        if sizes is not None:
            self.host_mib = max(sum(sizes.values()), self.host_mib or 0.0)
            workers = [sizes[pid] for pid in self._workers() if pid in sizes]
            if workers:
                self.worker_mib = max(fmean(workers), self.worker_mib or 0.0)
        if num_steps > 1 or self.device_mib is None:
            self.device_mib = self._device.peak_memory_mib()
