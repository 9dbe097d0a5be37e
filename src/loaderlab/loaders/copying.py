"""Copies batches from host memory to the device, on the step's stream or on a side stream."""

from __future__ import annotations

from dataclasses import replace

import torch

from loaderlab.config import HostLoader
from loaderlab.loaders.contract import Batch, LoaderError
from loaderlab.loaders.resolve import copying


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

    def __init__(self, config: HostLoader, device: torch.device) -> None:
        if device.type != "cuda" and (why := config.needs_gpu()):
            raise LoaderError(why)
        self._device = device
        self.settings = copying(config, device)
        self._stream = torch.cuda.Stream(device) if self.settings.side_stream else None

    @property
    def pinned(self) -> bool:
        """Whether batches must be in pinned memory."""
        return self.settings.pin_memory

    def __call__(self, batch: Batch) -> Batch:
        if self._stream is None:
            return self._copied(batch)
        with torch.cuda.stream(self._stream):
            copied = self._copied(batch)
        step_stream = torch.cuda.current_stream(self._device)
        step_stream.wait_stream(self._stream)
        for tensor in (copied.inputs, copied.targets):
            tensor.record_stream(step_stream)
        return copied

    def _copied(self, batch: Batch) -> Batch:
        inputs, targets = (
            tensor.to(self._device, non_blocking=self.settings.non_blocking) for tensor in (batch.inputs, batch.targets)
        )
        return replace(batch, inputs=inputs, targets=targets)
