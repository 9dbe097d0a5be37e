"""The content of ``environment.json``: the machine, the versions and the device of a run."""

from __future__ import annotations

import os
import platform
import socket
from typing import Any

import psutil
import torch

from loaderlab.device.base import Device
from loaderlab.device.cpu import processor_name
from loaderlab.device.cuda import Cuda
from loaderlab.device.resolve import driver_gpus
from loaderlab.system.machine import available_cores
from loaderlab.system.versions import versions


def describe(device: Device) -> dict[str, Any]:
    """The content of ``environment.json``: enough to decide whether two runs used comparable machines."""
    description = describe_machine(device.name, torch.get_num_threads())
    if isinstance(device, Cuda):
        properties = torch.cuda.get_device_properties(device.torch_device)
        description |= {
            "cuda_of_torch": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "device_memory_gib": round(properties.total_memory / 2**30, 1),
            "driver": (driver_gpus() or {}).get("driver"),
        }
    return description


def describe_machine(device_name: str, torch_threads: int) -> dict[str, Any]:
    """The part of `describe` that needs no access to the device: for another process's run."""
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "processor": processor_name(),
        "cores_available": available_cores(),
        "cores_of_machine": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "torch_threads": torch_threads,
        "versions": versions(),
        "device": device_name,
    }
