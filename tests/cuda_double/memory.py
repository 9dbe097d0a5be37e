"""Memory of the double: which tensors are on the device or in pinned memory, and a strict allocator.

The tensors are ordinary ones in host memory. Their storages are listed here, each with the work that reads and writes it.
Reading or writing a storage raises, unless the conflicting work is known to be done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from tests.cuda_double.order import Access, Known, Order, precedes


class RaceError(AssertionError):
    """Two accesses to the same memory are not ordered."""


Place = tuple[int, int]  # first byte and end
WHOLE: Place = (0, 2**62)


@dataclass(eq=False)
class Block:
    """A block of memory.

    Attributes:
        stream: the stream in whose pool it is; -1 for pinned memory.
        users: the streams for which `record_stream` was called.
        reads, writes: for each stream and place its newest access.
        guards: after the block was freed: for each of ``users`` the time at which it had finished its work.
    """

    num_bytes: int
    stream: int = -1
    users: set[int] = field(default_factory=set)
    reads: dict[tuple[int, Place], int] = field(default_factory=dict)
    writes: dict[tuple[int, Place], int] = field(default_factory=dict)
    guards: dict[int, int] = field(default_factory=dict)

    def read(self, access: Access, known: Known, what: str, place: Place = WHOLE) -> None:
        """Adds a read by work that comes after all that is ``known``."""
        self.host_reads(known, what, place)
        self.reads[access[0], place] = access[1]

    def write(self, access: Access, known: Known, what: str, place: Place = WHOLE) -> None:
        """Adds a write by work that comes after all that is ``known``."""
        self.host_writes(known, what, place)
        self.writes[access[0], place] = access[1]

    def host_reads(self, known: Known, what: str, place: Place = WHOLE) -> None:
        """Raises if the device may still write there."""
        self._check(self.writes, place, known, f"{what} reads memory that stream {{}} may not have written yet")

    def host_writes(self, known: Known, what: str, place: Place = WHOLE) -> None:
        """Raises if the device may still write or read there."""
        self._check(self.writes, place, known, f"{what} writes to memory that stream {{}} may not have written yet")
        self._check(self.reads, place, known, f"{what} writes to memory that stream {{}} may not have read yet")

    def forget(self, stream: int) -> None:
        """The stream is done with the block."""
        for accesses in (self.reads, self.writes):
            for key in [key for key in accesses if key[0] == stream]:
                del accesses[key]

    @staticmethod
    def _check(accesses: dict[tuple[int, Place], int], place: Place, known: Known, message: str) -> None:
        for (stream, (start, stop)), number in accesses.items():
            if start < place[1] and place[0] < stop and not precedes((stream, number), known):
                raise RaceError(message.format(stream))


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """The tensor's storage; None for a kind of tensor that has none."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def place_of(tensor: torch.Tensor) -> Place:
    """The bytes of the tensor in its storage, if its elements are next to each other."""
    start = int(tensor.storage_offset()) * tensor.element_size()
    return start, start + tensor.nbytes


class Blocks:
    """The storages of one kind of memory that exist, each with its block."""

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[StorageWeakRef, Block]] = {}

    def get(self, tensor: torch.Tensor) -> Block | None:
        """The block of the tensor's storage; None if it is not in this memory."""
        if not self._blocks:
            return None
        storage = storage_of(tensor)
        entry = None if storage is None else self._blocks.get(storage._cdata)
        return None if entry is None else entry[1]

    def add(self, tensor: torch.Tensor, block: Block) -> None:
        storage = tensor.untyped_storage()
        self._blocks[storage._cdata] = (StorageWeakRef(storage), block)

    def freed(self) -> Iterator[Block]:
        """Removes and yields the blocks whose tensors are gone."""
        expired = torch.UntypedStorage._expired  # as `reference.expired`, which would take half of the double's time
        for key in [key for key, (reference, _) in list(self._blocks.items()) if expired(reference.cdata)]:
            yield self._blocks.pop(key)[1]

    @property
    def num_bytes(self) -> int:
        return sum(block.num_bytes for _, block in self._blocks.values())


class Allocator:
    """The allocator of the device: a freed block is handed out again at once, to any tensor of the same stream's pool.

    As in torch, a block is kept back only if another stream was recorded for it, until that stream has finished the work
    that was queued when the block was freed.

    Attributes:
        limit: bytes that this process may use of the capacity.
        peak: the largest number of bytes in use since the last reset.
    """

    def __init__(self, order: Order, capacity: int) -> None:
        self.blocks, self._order, self.capacity = Blocks(), order, capacity
        self.limit = capacity
        self._free: dict[int, list[Block]] = {}
        self.peak = 0

    def take_back(self, finished_ns: dict[int, int]) -> None:
        """Takes the blocks of tensors that are gone; ``finished_ns``: when each stream finishes its queued work."""
        for block in self.blocks.freed():
            block.guards = {stream: finished_ns[stream] for stream in block.users}
            self._free.setdefault(block.stream, []).append(block)

    def allocate(self, tensor: torch.Tensor, stream: int, now_ns: int) -> Block:
        """The block of a new tensor."""
        num_bytes = tensor.untyped_storage().nbytes()
        if self.blocks.num_bytes + num_bytes > min(self.limit, self.capacity):
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {num_bytes} bytes. GPU 0 has a total capacity of {self.capacity} bytes."
            )
        block = self._reused(stream, now_ns) or Block(num_bytes, stream)
        block.num_bytes = num_bytes
        self.blocks.add(tensor, block)
        self.peak = max(self.peak, self.blocks.num_bytes)
        return block

    def _reused(self, stream: int, now_ns: int) -> Block | None:
        free = self._free.get(stream, [])
        for block in free:
            if all(at_ns <= now_ns for at_ns in block.guards.values()):
                free.remove(block)
                for user in block.guards:
                    block.forget(user)
                block.users, block.guards = set(), {}
                return block
        return None

    @property
    def reserved(self) -> int:
        return self.blocks.num_bytes + sum(block.num_bytes for blocks in self._free.values() for block in blocks)
