"""Selects the device of a run, and names it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from loaderlab.config import AUTO, UserError, refuse
from loaderlab.device.capabilities import CPU, DeviceCapabilities
from loaderlab.system.causes import reason
from loaderlab.system.machine import available_cores
from loaderlab.system.nvml import gpus, query


def resolve_device(name: str) -> torch.device:
    """The device that ``device=`` names; ``auto`` is CUDA if torch can use it, otherwise the CPU.

    Raises:
        UserError: there is no such device, or the driver shows a GPU that torch cannot use: a run never falls back to
            the CPU silently.
    """
    if name == AUTO:
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        if shown := driver_gpus():
            raise UserError(
                f"device=auto: the driver ({shown['driver']}) shows {', '.join(shown['names'])}, but torch "
                f"{torch.__version__} (built for CUDA {torch.version.cuda}) cannot use it: {_cuda_error()}. "
                "Update the driver, or install a torch built for its CUDA version; "
                "to train on the CPU instead: device=cpu"
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
        return reason(error).rstrip(".")
    return "no reason given"


def driver_gpus() -> dict[str, Any] | None:
    """Driver version and names of the GPUs that NVML reports; None without a driver or GPU, or if CUDA_VISIBLE_DEVICES hides
    all of them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return None
    with gpus() as handles:
        if not handles:
            return None
        names = [query(gpu, lambda nvml, gpu: nvml.nvmlDeviceGetName(gpu)) or "an unnamed GPU" for gpu in handles]
        return {"driver": query(handles[0], lambda nvml, _: nvml.nvmlSystemGetDriverVersion()), "names": names}


def device_name(device: torch.device) -> str:
    """The GPU's marketing name, or the processor's with the number of cores that may be used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()} ({available_cores()} cores)"


def processor_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def capabilities(device: torch.device) -> DeviceCapabilities:
    """The capabilities of a resolved device."""
    if device.type != "cuda":
        return CPU
    return DeviceCapabilities(
        asynchronous=True,
        uses_host_cores=False,
        takes_copies=True,
        decodes_images=True,
        fast_bf16=torch.cuda.get_device_capability(device) >= (8, 0),
    )
