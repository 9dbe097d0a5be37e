"""Packs a nested batch: its tensors side by side in one piece of memory, which is sent, pinned and copied to the device at once.

A batch of detection has hundreds of tensors. One by one, each would need shared memory, a file descriptor, a page-locked copy and a
copy to the device of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from loaderlab.loaders.nesting import mapped, moves_itself

ALIGNED = 64  # bytes: vector instructions of a CPU and loads of a GPU work best on such addresses


class Place:
    """Where a tensor is in the memory: its first byte, and its dtype, size and strides."""

    __slots__ = ("dtype", "offset", "size", "stride")

    def __init__(self, offset: int, dtype: str, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.offset, self.dtype, self.size, self.stride = offset, dtype, size, stride

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.offset, self.dtype, self.size, self.stride)

    def tensor(self, memory: torch.Tensor) -> torch.Tensor:
        """The tensor, which shares the memory. It is no view of it: autograd would take a change of one tensor for a change of all."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        start = (memory.storage_offset() + self.offset) // dtype.itemsize
        tensor = torch.empty(0, dtype=dtype, device=memory.device)
        return tensor.set_(memory.untyped_storage(), start, self.size, self.stride)


class Pickled:
    """A value that is pickled now, so that an error is raised now. Unpickling returns the value itself."""

    def __init__(self, value: Any) -> None:
        self._bytes = bytes(ForkingPickler.dumps(value))

    def __reduce__(self) -> tuple[Any, ...]:
        return ForkingPickler.loads, (self._bytes,)


@dataclass(frozen=True)
class Packed:
    """A nested batch whose ordinary tensors are in ``memory``, (bytes,) uint8.

    Attributes:
        content: the batch, with a `Place` for each of them.
    """

    memory: torch.Tensor
    content: Any

    def pin_memory(self) -> Packed:
        """A copy in page-locked memory."""
        return Packed(self.memory.pin_memory(), mapped(self.content, _pinned))

    def unpacked(self, memory: torch.Tensor, other: Callable[[Any], Any]) -> Any:
        """The batch, with its tensors in ``memory``, a copy of the own one. Other leaves are replaced by ``other(leaf)``."""
        return mapped(self.content, lambda leaf: leaf.tensor(memory) if isinstance(leaf, Place) else other(leaf))


def pack(content: Any, allocate: Callable[[int], torch.Tensor]) -> Packed:
    """Copies the ordinary tensors of a nested batch into one piece of memory.

    Args:
        allocate: returns uninitialised memory of so many bytes, (bytes,) uint8.
    """
    copies: list[tuple[Place, torch.Tensor]] = []
    end = 0

    def place(leaf: Any) -> Any:
        nonlocal end
        if not isinstance(leaf, torch.Tensor) or not is_ordinary(leaf):
            return leaf
        offset = -(-end // ALIGNED) * ALIGNED
        end = offset + leaf.nbytes
        size = tuple(leaf.size())
        stride = leaf.stride() if is_dense(leaf) else torch.empty(size, device="meta").stride()
        copies.append((Place(offset, str(leaf.dtype).removeprefix("torch."), size, stride), leaf))
        return copies[-1][0]

    placed = mapped(content, place)
    memory = allocate(max(1, end))
    for target, tensor in copies:
        target.tensor(memory).copy_(tensor)
    return Packed(memory, placed)


def plain_memory(num_bytes: int) -> torch.Tensor:
    """Uninitialised memory, (bytes,) uint8."""
    return torch.empty(num_bytes, dtype=torch.uint8)


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether its values and its layout are all that there is to a tensor on the host: no subclass, no graph, not sparse."""
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return False
    return not (tensor.requires_grad or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the values follow each other in some order of the dimensions."""
    dense_stride = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.size(), strict=True)):
        if size > 1:
            if stride != dense_stride:
                return False
            dense_stride *= size
    return True


def _pinned(leaf: Any) -> Any:
    return leaf.pin_memory() if moves_itself(leaf) and hasattr(leaf, "pin_memory") else leaf
