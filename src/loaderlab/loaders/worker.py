"""The beginning of a DataLoader worker, and the form in which it sends its batches."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import get_worker_info

from loaderlab.config import refuse
from loaderlab.loaders.contract import Batch
from loaderlab.loaders.fetch import Failure
from loaderlab.loaders.header import lift_pillow_limit
from loaderlab.loaders.packed import Packed, Pickled, pack
from loaderlab.loaders.slot_writer import batch_memory, begin_worker, message
from loaderlab.loaders.slots import Slots
from loaderlab.system.causes import described
from loaderlab.system.processes import killed_with_parent


class BeginWorker:
    """Prepares a worker before its first batch. A spawned worker does not inherit the settings of the training process."""

    def __init__(self, start_method: str | None) -> None:
        self._start_method = start_method
        self._from_main_thread = True
        self._collects_garbage = True
        self._then: Callable[[int], None] | None = None
        self.slots: Slots | None = None

    def then(self, begin: Callable[[int], None]) -> None:
        """Sets what the workers that start next call at the end of their preparation, with their number."""
        self._then = begin

    def use(self, slots: Slots | None) -> None:
        """Sets the slots of the workers that start next."""
        self.slots = slots

    def note_thread(self) -> None:
        """Records the thread that will start the workers: Linux treats the end of that thread as the parent's death."""
        self._from_main_thread = threading.current_thread() is threading.main_thread()

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Pauses the garbage collector while workers start, so that a forked one cannot collect before it is in `__call__`."""
        self._collects_garbage = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if self._collects_garbage:
                gc.enable()

    def __call__(self, worker: int) -> None:
        gc.freeze()  # collecting inherited objects would copy their memory, or call CUDA in a forked process
        if self._collects_garbage:
            gc.enable()
        lift_pillow_limit()
        if self.slots is not None:
            begin_worker(self.slots, worker)
        if self._from_main_thread and self._start_method != "forkserver":  # its workers are children of the fork server
            killed_with_parent()
        if self._then is not None:
            self._then(worker)


def as_sent(fetched: Any) -> Any:
    """What a worker sends: the same value, or for a batch a message about a slot. A batch that fits into no slot is moved to new
    shared memory here, so that an error reaches the training process. The thread that sends batches would only print the error,
    and the training process would wait forever."""
    worker = get_worker_info()
    if not isinstance(fetched, Batch) or worker is None:
        return fetched
    if fetched.is_whole:
        try:
            packed = pack(fetched.inputs, lambda num_bytes: batch_memory((num_bytes,), torch.uint8))
            fetched = replace(fetched, inputs=Packed(packed.memory, Pickled(packed.content)))
        except Exception as error:  # of pickling a user's objects, or of the system
            allowed = f"a batch of data.collate cannot be sent from a worker: {described(error)}"
            override = "loader.num_workers=0, or return tensors and plain values"
            return Failure(str(refuse("loader.num_workers", worker.num_workers, allowed, override, is_example=False)))
    if (in_slot := message(fetched)) is not None:
        return in_slot
    if not fetched.is_whole:  # a packed batch is in shared memory already
        fetched.inputs.share_memory_()
    return fetched
