"""From host memory to the device: on the step's own stream, or on one beside it."""

from __future__ import annotations

from dataclasses import replace

import torch

from loaderlab.config import AUTO, HostLoader
from loaderlab.loaders.contract import Batch, LoaderError


def copy_settings(config: HostLoader, device: torch.device) -> dict[str, bool]:
    """What is in force of ``pin_memory``, ``non_blocking`` and ``side_stream``.

    Raises:
        LoaderError: one of them is asked for, and there is no GPU.
    """
    if device.type != "cuda" and (why := config.needs_gpu()):
        raise LoaderError(why)
    pinned = device.type == "cuda" if config.pin_memory == AUTO else bool(config.pin_memory)
    non_blocking = pinned if config.non_blocking == AUTO else bool(config.non_blocking)
    side_stream = pinned and non_blocking if config.side_stream == AUTO else bool(config.side_stream)
    return {"pin_memory": pinned, "non_blocking": non_blocking, "side_stream": side_stream}


class DeviceCopy:
    """Copies inputs and targets to the device; what is there already is not copied, and ids stay on the host.

    On the step's stream a copy waits for all work that is queued there, so it takes its time between two steps. On a
    stream of its own it runs beside the step that is still at work, and the step's stream waits for it alone.

    Args:
        non_blocking: let the host go on meanwhile, which takes pinned memory.
        side_stream: on a stream of its own. The batch's memory belongs to that stream's pool: the step's stream is
            recorded with it, so that it is not handed out again before the step has done with it.
    """

    def __init__(self, device: torch.device, *, non_blocking: bool, side_stream: bool = False) -> None:
        self._device, self._non_blocking = device, non_blocking
        self._stream = torch.cuda.Stream(device) if side_stream else None

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
