"""Settings for reading a PyTorch profiler trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loaderlab.config.base import AUTO, MISSING, check_bounds, refuse, setting


@dataclass
class TraceConfig:
    """Which trace is read, which steps, and which ranges count as waiting for data."""

    trace: str = setting(MISSING, "file written by PyTorch's profiler, .json or .json.gz")
    format: str = setting("text", "text: a table; json: only JSON on stdout", choices=("text", "json"))
    wait: str = setting(
        AUTO,
        "ranges in which the loop waits for data: part of their name, or a pattern for the whole name with * and ?; "
        "auto: PyTorch's DataLoader and loaderlab/wait",
    )
    device: Any = setting(
        AUTO, kind=int, doc="number of the GPU; auto: the mean of all GPUs that work in the steps", at_least=0
    )
    pid: str = setting(AUTO, "process whose steps are read, if the file has several; auto: the only one")

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.wait.strip():
            raise refuse("wait", self.wait, "must be part of a range's name, or auto", "wait=next_batch")
