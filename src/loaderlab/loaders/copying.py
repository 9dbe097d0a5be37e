"""Copies batches from host memory to the device, on the step's stream or on a side stream."""

from __future__ import annotations

from dataclasses import replace

from loaderlab.config import HostLoader
from loaderlab.device.base import Device
from loaderlab.loaders.contract import Batch, LoaderError
from loaderlab.loaders.resolve import copying, needs_gpu


class DeviceCopy:
    """Copies inputs and targets to the device; ids stay on the host.

    On the step's stream a copy waits for all work queued there, so it adds to the time between two steps. On a side stream
    it overlaps with the step that is still running, and the step's stream waits only for the copy. The batch's memory then
    belongs to the side stream's pool. `record_stream` keeps it from being reused before the step has finished with it.

    Attributes:
        settings: the effective settings.

    Raises:
        LoaderError: a setting needs a GPU.
    """

    def __init__(self, config: HostLoader, device: Device) -> None:
        if why := needs_gpu(config, device):
            raise LoaderError(why)
        self._device = device
        self.settings = copying(config, device)
        self._stream = device.side_stream() if self.settings.side_stream else None

    @property
    def pins(self) -> bool:
        """Whether batches must be put into pinned memory. Pinned memory of an emulated accelerator is ordinary memory."""
        return self.settings.pin_memory and self._device.has_page_locked_memory

    def __call__(self, batch: Batch) -> Batch:
        if self._stream is None:
            return self._copied(batch)
        with self._device.on_stream(self._stream):
            copied = self._copied(batch)
        step_stream = self._device.current_stream()
        step_stream.wait_stream(self._stream)
        for tensor in (copied.inputs, copied.targets):
            self._device.keep_for(tensor, step_stream)
        return copied

    def _copied(self, batch: Batch) -> Batch:
        settings = self.settings
        inputs, targets = (
            self._device.copy(tensor, non_blocking=settings.non_blocking, pinned=settings.pin_memory)
            for tensor in (batch.inputs, batch.targets)
        )
        return replace(batch, inputs=inputs, targets=targets)
