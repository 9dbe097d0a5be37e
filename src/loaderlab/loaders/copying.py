"""From host memory to the device: on the step's own stream, or on one beside it."""

from __future__ import annotations

from dataclasses import replace

import torch

from loaderlab.config import HostLoader
from loaderlab.loaders.contract import Batch, LoaderError
from loaderlab.loaders.resolve import copying


class DeviceCopy:
    """Copies inputs and targets to the device; ids stay on the host.

    On the step's stream a copy waits for all work that is queued there, so it takes its time between two steps. On a
    stream of its own it runs beside the step that is still at work, and the step's stream waits for it alone. The batch's
    memory then belongs to that stream's pool: the step's stream is recorded with it, so that it is not handed out again
    before the step has done with it.

    Attributes:
        settings: those in force.

    Raises:
        LoaderError: the configuration asks for what only a GPU has.
    """

    def __init__(self, config: HostLoader, device: torch.device) -> None:
        if device.type != "cuda" and (why := config.needs_gpu()):
            raise LoaderError(why)
        self._device = device
        self.settings = copying(config, device)
        self._stream = torch.cuda.Stream(device) if self.settings.side_stream else None

    @property
    def pinned(self) -> bool:
        """Whether batches are to come in pinned memory."""
        return self.settings.pin_memory

    def __call__(self, batch: Batch) -> Batch:
        if self._stream is None:
            return self._copied(batch)
        with torch.cuda.stream(self._stream):
            here = self._copied(batch)
        step = torch.cuda.current_stream(self._device)
        step.wait_stream(self._stream)
        for tensor in (here.inputs, here.targets):
            tensor.record_stream(step)
        return here

    def _copied(self, batch: Batch) -> Batch:
        inputs, targets = (
            tensor.to(self._device, non_blocking=self.settings.non_blocking) for tensor in (batch.inputs, batch.targets)
        )
        return replace(batch, inputs=inputs, targets=targets)
