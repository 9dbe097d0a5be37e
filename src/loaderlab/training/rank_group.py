"""Communication between the ranks of a job: over gloo for everything except the gradients of models on GPUs, which use NCCL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from loaderlab.device.base import Device
from loaderlab.system.ranks import Ranks

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # a collective may wait for a rank whose loader starts slowly
EXCHANGES = 50  # to measure their cost
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FAILED = (
    "gloo",
    "NCCL",
    "ProcessGroup",
    "process group",
    "onnection closed",
    "onnection reset",
    "roken pipe",
    "TCPStore",
)


class RankGroup:
    """All ranks of a job. Every method must be called by all ranks, in the same order.

    Args:
        ranks: the place of this process.

    Attributes:
        clock_offset_ns: what to add to this process's `time.perf_counter_ns` to get that of rank 0.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=TIMEOUT)
        self.clock_offset_ns = self._clock_offset_ns()

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order; any picklable objects."""
        values: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(values, value)
        return values

    def gather(self, value: T) -> list[T] | None:
        """On rank 0 the values of all ranks, in their order; None on the others."""
        values: list[Any] | None = [None] * self.ranks.world_size if self.ranks.is_first else None
        dist.gather_object(value, values)
        return values

    def broadcast(self, value: T) -> T:
        """The value of rank 0."""
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def largest(self, value: int) -> int:
        """The largest of the ranks' 64-bit integers."""
        return int(self._reduced([value], torch.int64, dist.ReduceOp.MAX)[0])

    def all_true(self, flag: bool) -> bool:
        """Whether the flag is set on every rank."""
        return bool(self._reduced([int(flag)], torch.int64, dist.ReduceOp.MIN)[0])

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sum over the ranks of each value."""
        return [float(value) for value in self._reduced(list(values), torch.float64, dist.ReduceOp.SUM)]

    def share_buffers(self, model: nn.Module) -> None:
        """Gives the model on every rank the buffers of rank 0, such as the statistics of batch normalisation."""
        for buffer in model.buffers():
            shared = buffer.detach().cpu()
            dist.broadcast(shared, 0)
            if not self.ranks.is_first:
                buffer.copy_(shared)

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces each tensor by its mean over the ranks."""
        for tensor in tensors:
            mean = tensor.detach().cpu() / self.ranks.world_size
            dist.all_reduce(mean)
            tensor.copy_(mean)

    def for_gradients(self, device: Device) -> dist.ProcessGroup | None:
        """The group that exchanges the gradients of a model on this device; None: this one."""
        if device.capabilities.uses_host_cores:
            return None
        group = dist.new_group(backend="nccl", timeout=TIMEOUT)
        assert isinstance(group, dist.ProcessGroup)  # every rank is a member
        return group

    def exchange_ms(self) -> float:
        """The host's time for an exchange of one number: the median of `EXCHANGES`."""
        times = []
        for _ in range(EXCHANGES):
            began = time.perf_counter()
            self.largest(0)
            times.append(time.perf_counter() - began)
        return 1e3 * median(times)

    def close(self) -> None:
        """Ends the communication; the other ranks may have ended theirs."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _reduced(self, values: list[Any], dtype: torch.dtype, operation: Any) -> torch.Tensor:
        tensor = torch.tensor(values, dtype=dtype, device="cpu")
        dist.all_reduce(tensor, operation)
        return tensor

    def _clock_offset_ns(self) -> int:
        """0 if all ranks have the same clock, that of one machine. Otherwise the median over some barriers, which all ranks leave at
        almost the same moment."""
        boot_ids = self.all_gather(BOOT_ID.read_text(encoding="utf-8") if BOOT_ID.exists() else str(self.ranks.rank))
        if len(set(boot_ids)) == 1:
            return 0
        offsets = []
        for _ in range(EXCHANGES):
            dist.barrier()
            now = time.perf_counter_ns()
            offsets.append(self.broadcast(now) - now)
        return round(median(offsets))


def is_broken(error: BaseException) -> bool:
    """Whether an error says that the communication with another rank broke, which another error on that rank has caused."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in FAILED)
