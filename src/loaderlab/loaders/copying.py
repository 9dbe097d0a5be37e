"""Copies batches from host memory to the device, on the step's stream or on a side stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from loaderlab.config import HostLoader
from loaderlab.device.base import Device
from loaderlab.loaders.contract import Batch, LoaderError
from loaderlab.loaders.nesting import mapped, moves_itself, tensors
from loaderlab.loaders.packed import Packed
from loaderlab.loaders.resolve import copying, needs_gpu


class DeviceCopy:
    """Copies inputs and targets, or a whole batch, to the device; ids stay on the host.

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
            return self._moved(self._copied(batch))
        with self._device.on_stream(self._stream):
            copied = self._copied(batch)
        step_stream = self._device.current_stream()
        step_stream.wait_stream(self._stream)
        for tensor in tensors((copied.inputs, copied.targets)):
            self._device.keep_for(tensor, step_stream)
        return self._moved(copied)

    def _copied(self, batch: Batch) -> Batch:
        if not batch.is_whole:
            return replace(batch, inputs=self._tensor(batch.inputs), targets=self._tensor(batch.targets))
        if isinstance(batch.inputs, Packed):
            return replace(batch, inputs=batch.inputs.unpacked(self._tensor(batch.inputs.memory), self._leaf))
        return replace(batch, inputs=mapped(batch.inputs, self._leaf))

    def _leaf(self, leaf: Any) -> Any:
        return self._tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        settings = self.settings
        return self._device.copy(tensor, non_blocking=settings.non_blocking, pinned=settings.pin_memory)

    def _moved(self, batch: Batch) -> Batch:
        """The batch after its other objects with a method ``to`` have moved themselves, on the step's stream: their memory cannot be
        kept for it."""
        return replace(batch, inputs=mapped(batch.inputs, self._by_itself)) if batch.is_whole else batch

    def _by_itself(self, leaf: Any) -> Any:
        moves = moves_itself(leaf) and not isinstance(leaf, torch.Tensor)
        return leaf.to(self._device.torch_device) if moves else leaf
