"""Settings of reading a trace of PyTorch's profiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loaderlab.config.base import AUTO, MISSING, check_bounds, refuse, setting


@dataclass
class TraceConfig:
    """Which trace, whose steps, what counts as waiting for data."""

    trace: str = setting(MISSING, "file that PyTorch's profiler wrote, .json or .json.gz")
    format: str = setting("text", "json: nothing but the JSON on stdout", choices=("text", "json"))
    wait: str = setting(
        AUTO,
        "ranges in which the loop waits for data: a part of their name, or a pattern of the whole name with * and ?; "
        "auto: PyTorch's DataLoader and loaderlab/wait",
    )
    device: Any = setting(
        AUTO, kind=int, doc="number of the GPU; auto: the mean over all that worked in the steps", at_least=0
    )
    pid: str = setting(
        AUTO, "process whose steps are read, where several were merged into one file; auto: the only one"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.wait.strip():
            raise refuse("wait", self.wait, "must be a part of a range's name, or auto", "wait=next_batch")
