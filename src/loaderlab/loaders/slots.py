"""Slots: shared memory that workers use again and again to send batches, instead of new shared memory for each batch.

New shared memory costs the trainer a file descriptor, which it gets through a socket of the worker, and it costs both processes
a page fault for every 4 KiB. A slot costs that once. Each worker has its own slots. It builds a batch in a free one and sends a
message of a few hundred bytes, and the trainer's tensor is a view of the slot.

A slot is used again when no tensor in the trainer refers to it, so a batch that the consumer keeps is never overwritten. One byte
for each slot says whether it is free: the worker sets it when it sends the slot, and the trainer clears it when it receives a batch
after the memory of the last tensor was released. (A process that the trainer forks while it keeps a batch sees later batches in that memory.)

A batch is sent through new shared memory, as usual, if all slots are in use because the consumer keeps many batches, if a batch is
larger than a slot, or if its inputs are not an ordinary dense tensor (see `slot_writer.fits`). Batches of different shapes use
slots too.

All slots are parts of one file without a name (``memfd``). A part takes memory when it is first written. The file is not limited
by the size of ``/dev/shm``, and it vanishes with the last process that has it open.
"""

from __future__ import annotations

import itertools
import mmap
import os
import weakref
from contextlib import suppress
from multiprocessing.reduction import DupFd
from typing import Any

import torch

# batches of the consumer: the step's, the next one, and one that is being released. Measured with 2 and 3 workers and a slow
# step, before there were slots: with room in /dev/shm for 2, runs failed; with room for 3 they did not (2 of 2 for 3 settings)
IN_USE = 3
SLOT_BYTES = 2**32  # address space of a slot
FREE, SENT = 0, 1

_identities = itertools.count()
_created_here: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()


class Slots:
    """The slots of one set of workers: the trainer creates them, and workers get them by fork or by pickling.

    Args:
        num_workers: of the loader.
        prefetch_factor: batches that each worker prepares ahead.

    Raises:
        OSError: the file cannot be created or mapped.
    """

    def __init__(self, num_workers: int, prefetch_factor: int) -> None:
        self.per_worker = prefetch_factor + -(-IN_USE // num_workers)
        self.num_slots = num_workers * self.per_worker
        self.identity = next(_identities)
        self._trainer = os.getpid()
        self._file = os.memfd_create("loaderlab-batches")
        self._close_file = weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, (1 + self.num_slots) * SLOT_BYTES)  # the first part holds the byte of each slot
        self._map_file()
        _created_here[self.identity] = self

    def _map_file(self) -> None:
        self._map = mmap.mmap(self._file, (1 + self.num_slots) * SLOT_BYTES)
        self._map.madvise(mmap.MADV_DONTDUMP)  # a core dump would walk through the whole address space
        self._memory = memoryview(self._map)
        self._first_address = torch.frombuffer(self._map, dtype=torch.uint8, count=1).data_ptr()
        self._views: dict[int, weakref.ref[memoryview]] = {}  # of this process, by slot
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        shared = {name: getattr(self, name) for name in ("per_worker", "num_slots", "identity", "_trainer")}
        return shared | {"_file": DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_file": state["_file"].detach()})
        self._map_file()

    def is_free(self, slot: int) -> bool:
        """Whether the slot holds no batch that was sent, and no view of it exists in this process."""
        return self._map[slot] == FREE and not self._is_viewed(slot)

    def mark_sent(self, slot: int) -> None:
        """Keeps the slot for the trainer, until the trainer releases the batch. Called in the worker."""
        self._map[slot] = SENT

    def allocate(self, slot: int, num_bytes: int) -> bool:
        """Takes memory for the first bytes of a slot. False if the system refuses it; writing would then end the process."""
        try:
            os.posix_fallocate(self._file, _start(slot), num_bytes)
        except OSError:
            return False
        return True

    def view(self, slot: int, num_bytes: int) -> memoryview:
        """The first bytes of a slot. In the trainer, the slot becomes free when nothing refers to this view any more: at the next
        call."""
        self.release_unused()
        view = self._memory[_start(slot) : _start(slot) + num_bytes]
        self._views[slot] = weakref.ref(view)
        return view

    def release_unused(self) -> None:
        """In the trainer: frees the slots whose batches nothing refers to any more.

        It is called for each batch. A callback of the weak references could free them earlier, but an interrupt (Ctrl-C) that arrives
        in such a callback is lost.
        """
        if (
            os.getpid() != self._trainer
        ):  # a worker's slot is the trainer's after it was sent; so it is in a process forked later
            return
        for slot in [slot for slot in self._views if not self._is_viewed(slot)]:
            del self._views[slot]
            self._map[slot] = FREE

    def _is_viewed(self, slot: int) -> bool:
        """Whether a view of the slot exists in this process."""
        view = self._views.get(slot)
        return view is not None and view() is not None

    def slot_of(self, tensor: torch.Tensor) -> int | None:
        """The slot in which a tensor begins; None if it is elsewhere."""
        slot, offset = divmod(tensor.data_ptr() - self._first_address, SLOT_BYTES)
        return slot - 1 if offset == 0 and 0 < slot <= self.num_slots else None

    def close(self) -> None:
        """Frees the memory of slots that are not in use. That of the others is freed with the last batch that the consumer keeps. The
        workers have ended. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._close_file()
        for slot in range(self.num_slots):
            if not self._is_viewed(slot):
                self._free_memory(slot)

    def _free_memory(self, slot: int) -> None:
        with suppress(OSError):  # this kernel cannot: the memory is freed with the last view
            self._map.madvise(mmap.MADV_REMOVE, _start(slot), SLOT_BYTES)


def _start(slot: int) -> int:
    return (1 + slot) * SLOT_BYTES


def slots_of(identity: int) -> Slots:
    """The slots that this process created with this identity."""
    return _created_here[identity]
