"""From host memory to the device: on the step's own stream, or on one beside it."""

from __future__ import annotations

from dataclasses import replace

import torch

from loaderlab.config import AUTO, HostLoader
from loaderlab.loaders.contract import Batch, LoaderError


class DeviceCopy:
    """Copies inputs and targets to the device; ids stay on the host.

    On the step's stream a copy waits for all work that is queued there, so it takes its time between two steps. On a
    stream of its own it runs beside the step that is still at work, and the step's stream waits for it alone. The batch's
    memory then belongs to that stream's pool: the step's stream is recorded with it, so that it is not handed out again
    before the step has done with it.

    Attributes:
        pinned: whether batches are to come in pinned memory.
        settings: what was chosen where the configuration said auto.

    Raises:
        LoaderError: the configuration asks for what only a GPU has.
    """

    def __init__(self, config: HostLoader, device: torch.device) -> None:
        if device.type != "cuda" and (why := config.needs_gpu()):
            raise LoaderError(why)
        self._device = device
        self.pinned = device.type == "cuda" if config.pin_memory == AUTO else bool(config.pin_memory)
        self._non_blocking = self.pinned if config.non_blocking == AUTO else bool(config.non_blocking)
        beside = self.pinned and self._non_blocking if config.side_stream == AUTO else bool(config.side_stream)
        self._stream = torch.cuda.Stream(device) if beside else None
        self.settings = {"pin_memory": self.pinned, "non_blocking": self._non_blocking, "side_stream": beside}

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
            tensor.to(self._device, non_blocking=self._non_blocking) for tensor in (batch.inputs, batch.targets)
        )
        return replace(batch, inputs=inputs, targets=targets)
