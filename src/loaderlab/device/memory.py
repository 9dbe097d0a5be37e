"""Memory use of the device, from torch's allocator."""

from __future__ import annotations

import torch


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak allocated memory since the last reset, MiB; None for a device without its own memory."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def reset_peak_memory(device: torch.device) -> None:
    """Restarts the peak at the current memory use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
