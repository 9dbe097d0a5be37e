"""Selects the device of a run."""

from __future__ import annotations

import os
from typing import Any

import torch

from loaderlab.config import AUTO, TrainConfig, UserError, refuse
from loaderlab.device.base import Device
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.device.emulated import Emulated
from loaderlab.system.causes import reason
from loaderlab.system.nvml import gpus, query


def device_of(config: TrainConfig, local_rank: int | None = None) -> Device:
    """The device of a run: its emulated accelerator, or what ``device=`` names. On ranks with GPUs, each has the GPU of its number.

    Raises:
        UserError: see `resolve_device`.
    """
    if config.accelerator.is_emulated:
        return Emulated(config.accelerator, config.batch_size, accumulate=config.accumulate)
    device = resolve_device(config.device)
    if local_rank is not None and not device.capabilities.uses_host_cores:
        return Cuda(local_rank)
    return device


def resolve_device(name: str) -> Device:
    """The device that ``device=`` names; ``auto`` is CUDA if torch can use it, otherwise the CPU.

    Raises:
        UserError: there is no such device, or the driver shows a GPU that torch cannot use: a run never falls back to
            the CPU silently.
    """
    if name == AUTO:
        if torch.cuda.is_available():
            return Cuda(torch.cuda.current_device())
        if shown := driver_gpus():
            raise UserError(
                f"device=auto: the driver ({shown['driver']}) shows {', '.join(shown['names'])}, but torch "
                f"{torch.__version__} (built for CUDA {torch.version.cuda}) cannot use it: {_cuda_error()}. "
                "Update the driver, or install a torch built for its CUDA version; "
                "to train on the CPU instead: device=cpu"
            )
        return Cpu()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise refuse("device", name, "must be auto, cpu, cuda or cuda:N", "device=auto") from None
    if device.type == "cpu":
        return Cpu()
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
    return Cuda(torch.cuda.current_device() if device.index is None else device.index)


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


def known_device(where: torch.device) -> Device | None:
    """The device on which another program trains; None if it is of a kind whose clock cannot be read here."""
    return resolve_device(str(where)) if where.type in ("cpu", "cuda") else None
