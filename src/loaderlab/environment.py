"""What machine this is, which device a run gets, and how many cores it may really use."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from loaderlab.config import AUTO, UserError, refuse
from loaderlab.machine import available_cores, gpus

PACKAGES = (
    "torch",
    "torchvision",
    "torchcodec",
    "nvidia-dali-cuda120",
    "spdl",
    "timm",
    "numpy",
    "pillow",
    "mlflow",
    "hydra-core",
)


def resolve_device(name: str) -> torch.device:
    """The device that ``device=`` asks for; ``auto`` is CUDA where torch can use it, else the CPU.

    Raises:
        UserError: no such device, or a GPU that the driver shows and torch cannot use: never a silent CPU run.
    """
    if name == AUTO:
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        if shown := driver_gpus():
            raise UserError(
                f"device=auto: the driver ({shown['driver']}) shows {', '.join(shown['names'])}, but torch "
                f"{torch.__version__} (built for CUDA {torch.version.cuda}) cannot use it: {_cuda_error()}. "
                "Update the driver, or install a torch built for its CUDA version; "
                "to train on the CPU all the same: device=cpu"
            )
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise refuse("device", name, "must be auto, cpu, cuda or cuda:N", "device=auto") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise refuse("device", name, "must be auto, cpu, cuda or cuda:N", "device=auto")
    if not torch.cuda.is_available():
        shown = driver_gpus()
        seen = f"the driver ({shown['driver']}) shows {', '.join(shown['names'])}, but " if shown else ""
        raise refuse("device", name, f"{seen}torch finds no CUDA device here: {_cuda_error()}", "device=cpu")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise refuse(
            "device",
            name,
            f"there are {torch.cuda.device_count()} CUDA devices, counted from 0",
            "device=cuda:0",
        )
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def _cuda_error() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0].rstrip(".")
    return "no reason given"


def driver_gpus() -> dict[str, Any] | None:
    """Driver version and names of the GPUs that NVML sees; None where there is no driver or no GPU, or where they are
    hidden from this process on purpose."""
    import pynvml

    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return None
    with gpus() as handles:
        names = [pynvml.nvmlDeviceGetName(gpu) for gpu in handles]
        return {"driver": pynvml.nvmlSystemGetDriverVersion(), "names": names} if names else None


def device_name(device: torch.device) -> str:
    """The marketing name of the GPU, or of the processor with the cores that may be used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()} ({available_cores()} cores)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Installed versions of the packages that a figure depends on; a package that is not there is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout, with ``-dirty`` where files differ from it; None outside a checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10)
        if head.returncode:
            return None
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")


def describe(device: torch.device) -> dict[str, Any]:
    """What ``environment.json`` holds: enough to tell whether two runs were made on like machines."""
    found: dict[str, Any] = {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores_available": available_cores(),
        "cores_of_machine": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "torch_threads": torch.get_num_threads(),
        "versions": versions(),
        "device": device_name(device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "cuda_of_torch": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "device_memory_gib": round(properties.total_memory / 2**30, 1),
            "driver": (driver_gpus() or {}).get("driver"),
        }
    return found
