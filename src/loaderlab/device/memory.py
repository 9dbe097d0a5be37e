"""Memory of the device, as torch's allocator counts it."""

from __future__ import annotations

import torch


def peak_memory_mib(device: torch.device) -> float | None:
    """The most that was allocated since the last reset, MiB; None for a device without memory of its own."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def reset_peak_memory(device: torch.device) -> None:
    """Counts the peak from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
