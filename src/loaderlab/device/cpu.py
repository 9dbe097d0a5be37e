"""The CPU as the device of a step: one clock, no queue, no memory of its own."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from loaderlab.device import capabilities
from loaderlab.device.base import Device
from loaderlab.device.capabilities import DeviceCapabilities
from loaderlab.system.machine import available_cores, available_memory


@dataclass(frozen=True)
class Cpu(Device):
    """The host's processor."""

    kind = "cpu"
    torch_device = torch.device("cpu")

    @property
    def capabilities(self) -> DeviceCapabilities:
        return capabilities.CPU

    @property
    def name(self) -> str:
        """The processor's name with the number of cores that may be used."""
        return processor()

    @property
    def free_bytes(self) -> int:
        return available_memory()

    def __str__(self) -> str:
        return "cpu"


def processor() -> str:
    """The processor's name with the number of cores that may be used."""
    return f"{processor_name()} ({available_cores()} cores)"


def processor_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
