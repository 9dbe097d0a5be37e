"""A CUDA device."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from loaderlab.device.base import Device, Event, Stream
from loaderlab.device.capabilities import DeviceCapabilities


@dataclass(frozen=True)
class Cuda(Device):
    """A GPU, as torch numbers it."""

    index: int = 0
    kind = "cuda"

    @property
    def torch_device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", self.index)

    @cached_property
    def capabilities(self) -> DeviceCapabilities:
        """Its capabilities. They are queried once: a device that has failed may answer no query."""
        capability = torch.cuda.get_device_capability(self.torch_device)
        return DeviceCapabilities(
            asynchronous=True,
            uses_host_cores=False,
            takes_copies=True,
            decodes_images=True,
            fast_bf16=capability >= (8, 0),
            compute_capability=capability,
        )

    @property
    def name(self) -> str:
        """The GPU's marketing name."""
        return torch.cuda.get_device_name(self.torch_device)

    @property
    def nvml_uuid(self) -> str | None:
        return str(torch.cuda.get_device_properties(self.torch_device).uuid)

    def bind_thread(self) -> None:
        torch.cuda.set_device(self.torch_device)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def event(self, *, timed: bool = False) -> Event:
        event: Event = torch.cuda.Event(enable_timing=timed)
        return event

    def current_stream(self) -> Stream:
        return torch.cuda.current_stream(self.torch_device)

    def side_stream(self) -> Stream:
        return torch.cuda.Stream(self.torch_device)

    def on_stream(self, stream: Any) -> AbstractContextManager[object]:
        return torch.cuda.stream(stream)

    @property
    def has_page_locked_memory(self) -> bool:
        return True

    def keep_for(self, tensor: torch.Tensor, stream: Any) -> None:
        tensor.record_stream(stream)

    @property
    def free_bytes(self) -> int:
        """Free memory of the GPU, and what torch has reserved without using it."""
        unused = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        return torch.cuda.mem_get_info(self.torch_device)[0] + unused

    def peak_memory_mib(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.torch_device) / 2**20

    def reset_peak_memory(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def __str__(self) -> str:
        return f"cuda:{self.index}"
