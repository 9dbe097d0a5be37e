"""Peak memory of a loop, with fake readers that return listed values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.meter.peaks import PeakMemory

CPU = Cpu()


def reads(*values: Any) -> Callable[..., Any]:
    answers = iter(values)
    return lambda *_: next(answers)


class WithMemory(Cpu):
    """A device whose peak memory is read from a list."""

    def __init__(self, peaks: Callable[..., float | None]) -> None:
        self.__dict__.update(peaks=peaks, num_resets=0)  # a frozen dataclass

    num_resets: int

    def peak_memory_mib(self) -> float | None:
        return self.__dict__["peaks"]()  # type: ignore[no-any-return]

    def reset_peak_memory(self) -> None:
        self.__dict__["num_resets"] += 1


def test_the_first_step_is_left_out_of_the_devices_peak() -> None:
    device = WithMemory(reads(900.0, 200.0, 210.0))
    memory = PeakMemory(device, host=reads({1: 60.0, 2: 40.0}, {1: 90.0}))
    for num_steps in (1, 2, 3):
        memory.after_step(num_steps)
    memory.after_epoch(3)
    assert device.num_resets == 1
    assert (memory.host_mib, memory.device_mib) == (100.0, 210.0)


def test_a_single_step_has_a_peak() -> None:
    """After the reset the allocator uses almost nothing; the only step's memory must still be the peak."""
    memory = PeakMemory(WithMemory(reads(900.0)), host=reads({1: 100.0}))
    memory.after_step(1)
    memory.after_epoch(1)
    assert (memory.host_mib, memory.device_mib) == (100.0, 900.0)


def test_what_is_not_measured_is_absent() -> None:
    memory = PeakMemory(CPU, host=lambda: None)
    memory.after_step(1)
    memory.after_step(2)
    memory.after_epoch(2)
    assert (memory.host_mib, memory.device_mib) == (None, None)


def test_the_memory_of_a_worker_is_the_mean_over_the_workers() -> None:
    """Their number may change; a worker that has ended has no memory."""
    running = reads([2, 3], [2, 3, 9], [])
    memory = PeakMemory(
        CPU, host=reads({1: 500.0, 2: 20.0, 3: 40.0}, {1: 1.0, 2: 30.0, 3: 50.0}, {1: 1.0}), workers=running
    )
    memory.after_step(2)
    assert memory.worker_mib == 30.0
    memory.after_epoch(9)
    memory.after_epoch(18)
    assert memory.worker_mib == 40.0
    assert memory.host_mib == 560.0


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    device = Cuda()
    memory = PeakMemory(device)
    torch.zeros(
        64, 2**20, dtype=torch.uint8, device=device.torch_device
    )  # freed in the same step, as cuDNN's trials are
    memory.after_step(1)
    assert memory.device_mib is not None
    assert memory.device_mib >= 64
    memory.after_step(2)
    assert memory.device_mib < 64
