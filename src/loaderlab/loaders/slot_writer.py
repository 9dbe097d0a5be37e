"""The worker's side of `loaderlab.loaders.slots`: it builds batches in slots, and sends them as small messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import get_worker_info

from loaderlab.loaders.contract import Batch, small_parts, whole_parts
from loaderlab.loaders.packed import Packed, is_dense, is_ordinary
from loaderlab.loaders.slots import SLOT_BYTES, Slots, slots_of
from loaderlab.loaders.torch_internals import shared_storage


@dataclass(frozen=True)
class Message:
    """A batch whose inputs are in a slot. Pickling sends the place of the inputs, and unpickling returns the batch."""

    slots: int
    slot: int
    batch: Batch

    def __reduce__(self) -> tuple[Any, ...]:
        inputs = _tensor(self.batch)
        # names and numbers only: the trainer unpickles them in a tenth of the time of arrays
        layout = inputs.nbytes, str(inputs.dtype).removeprefix("torch."), tuple(inputs.size()), inputs.stride()
        packed = (self.batch.inputs.content,) if isinstance(self.batch.inputs, Packed) else ()
        return _received, (self.slots, self.slot, layout, small_parts(self.batch), *packed)


def _received(slots: int, slot: int, layout: tuple[Any, ...], parts: tuple[Any, ...], *packed: Any) -> Batch:
    num_bytes, dtype, size, stride = layout
    view = slots_of(slots).view(slot, num_bytes)
    inputs = torch.frombuffer(view, dtype=getattr(torch, dtype)).as_strided(size, stride)
    return Batch(Packed(inputs, *packed) if packed else inputs, *whole_parts(parts))


def _tensor(batch: Batch) -> torch.Tensor:
    """What is sent in a slot: the inputs, or the memory of a packed batch."""
    inputs: torch.Tensor = batch.inputs.memory if isinstance(batch.inputs, Packed) else batch.inputs
    return inputs


class Writer:
    """The slots of one worker, in its process."""

    def __init__(self, slots: Slots, worker: int) -> None:
        self._slots = slots
        self._own = range(worker * slots.per_worker, (worker + 1) * slots.per_worker)
        self._allocated = dict.fromkeys(self._own, 0)  # bytes

    def take(self, num_bytes: int) -> torch.Tensor | None:
        """Uninitialised bytes in a free slot. None if no slot is free, or there is no memory for it."""
        if not 0 < num_bytes <= SLOT_BYTES:
            return None
        # always the first free one: slots that are not needed take no memory
        slot = next(filter(self._slots.is_free, self._own), None)
        if slot is None:
            return None
        if num_bytes > self._allocated[slot]:
            if not self._slots.allocate(slot, num_bytes):
                return None
            self._allocated[slot] = num_bytes
        return torch.frombuffer(self._slots.view(slot, num_bytes), dtype=torch.uint8)

    def message(self, batch: Batch) -> Message | None:
        """The message that sends a batch. Copies its inputs into a slot, unless they were built in one. None if they do not
        fit into a slot, or none is free."""
        inputs = _tensor(batch)
        if not fits(inputs):
            return None
        slot = self._slots.slot_of(inputs)
        if slot is None:
            memory = self.take(inputs.nbytes)
            if memory is None:
                return None
            memory.view(inputs.dtype).as_strided(inputs.size(), inputs.stride()).copy_(inputs)
            slot = self._slots.slot_of(memory)
        assert slot is not None
        self._slots.mark_sent(slot)
        return Message(self._slots.identity, slot, batch)


def fits(inputs: torch.Tensor) -> bool:
    """Whether a tensor can be sent in a slot: an ordinary tensor on the host, whose values follow each other in some order of
    its dimensions."""
    return is_ordinary(inputs) and inputs.numel() > 0 and is_dense(inputs)


_writers: list[Writer] = []  # the writer of this process, if it is a worker with slots


def begin_worker(slots: Slots, worker: int) -> None:
    """Uses the slots of a worker in this process, from now on."""
    _writers[:] = [Writer(slots, worker)]


def _slot_memory(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
    """Uninitialised memory in a free slot of this worker. None in another process, or if no slot is free."""
    memory = _writers[0].take(math.prod(shape) * dtype.itemsize) if _writers else None
    return None if memory is None else memory.view(dtype).view(shape)


def batch_memory(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised tensor. In a worker it is in a slot or else in new shared memory, so that sending it does not copy it."""
    if (memory := _slot_memory(shape, dtype)) is not None:
        return memory
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    return torch.empty(0, dtype=dtype).set_(shared_storage(math.prod(shape) * dtype.itemsize)).view(shape)


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The stack of the tensors in a free slot of this worker. None in another process, if no slot is free, or if the tensors
    are not ordinary tensors of one shape and dtype."""
    first = tensors[0]
    if not _writers or any(
        not is_ordinary(tensor) or tensor.size() != first.size() or tensor.dtype != first.dtype for tensor in tensors
    ):
        return None
    memory = _slot_memory((len(tensors), *first.size()), first.dtype)
    return None if memory is None else torch.stack(list(tensors), out=memory)


def message(batch: Batch) -> Message | None:
    """See `Writer.message`. None in a process without slots."""
    return _writers[0].message(batch) if _writers else None
