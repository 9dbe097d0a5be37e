"""The interface of a device: streams, events, copies, memory. `Cpu`, `Cuda` and `Emulated` implement it."""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from loaderlab.device.capabilities import DeviceCapabilities


class Event(Protocol):
    """A point in the work of a stream, as `torch.cuda.Event`."""

    def record(self, stream: Any) -> None:
        """Records the event behind the work that is queued on the stream."""
        ...

    def query(self) -> bool:
        """Whether the stream has reached the event."""
        ...

    def synchronize(self) -> None:
        """Waits for the event."""
        ...

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from this event to ``end``; both must have been reached."""
        ...


class Stream(Protocol):
    """A queue of work that is executed in order, as `torch.cuda.Stream`."""

    def wait_stream(self, other: Any) -> None:
        """Later work starts after the work that is now queued on the other stream; the host does not wait."""
        ...


class Device(abc.ABC):
    """The device that a step runs on.

    Code outside this subpackage asks for a capability or calls a method; it does not ask for the device's type.

    Attributes:
        kind: cpu, cuda or emulated; the tag ``device.type``.
        torch_device: where its tensors are.
    """

    kind: str
    torch_device: torch.device

    @property
    @abc.abstractmethod
    def capabilities(self) -> DeviceCapabilities:
        """Its capabilities."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Its name for people."""

    @property
    def title(self) -> str:
        """Its name and its place: ``cuda:0 NVIDIA H200``."""
        return f"{self} {self.name}"

    @property
    def nvml_uuid(self) -> str | None:
        """The id under which NVML knows it; None without NVML. An index would change with CUDA_VISIBLE_DEVICES."""
        return None

    def bind_thread(self) -> None:
        """Makes it the current device of this thread."""

    def synchronize(self) -> None:
        """Waits until it has finished all queued work."""

    # ---- only of an asynchronous device ------------------------------------------------------------------------

    def event(self, *, timed: bool = False) -> Event:
        """A new event. ``timed``: its time can be read."""
        raise NotImplementedError

    def current_stream(self) -> Stream:
        """The stream on which this thread queues work."""
        raise NotImplementedError

    def side_stream(self) -> Stream:
        """A new stream."""
        raise NotImplementedError

    def on_stream(self, stream: Stream) -> AbstractContextManager[object]:
        """A context in which this thread queues work on another stream."""
        raise NotImplementedError

    # ---- memory ------------------------------------------------------------------------------------------------

    @property
    def has_page_locked_memory(self) -> bool:
        """Whether the host's memory can be page-locked (pinned) for it."""
        return False

    def copy(self, tensor: torch.Tensor, *, non_blocking: bool, pinned: bool) -> torch.Tensor:
        """The tensor on the device, copied on the current stream.

        Args:
            tensor: in host memory.
            non_blocking: return before the copy has ended, if the tensor is in pinned memory.
            pinned: whether the tensor is in pinned memory. A device that can see this itself ignores it.
        """
        return tensor.to(self.torch_device, non_blocking=non_blocking)

    def keep_for(self, tensor: torch.Tensor, stream: Stream) -> None:
        """The tensor's memory is not reused before the work that is now queued on the stream has ended."""

    @property
    @abc.abstractmethod
    def free_bytes(self) -> int:
        """Memory that a tensor on it may still use."""

    def peak_memory_mib(self) -> float | None:
        """Peak allocated memory since the last reset, MiB; None for a device without its own memory."""
        return None

    def reset_peak_memory(self) -> None:
        """Restarts the peak at the current memory use."""
