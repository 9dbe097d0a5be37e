"""NVML, the query library of NVIDIA's driver: the one place that opens it.

pynvml is loaded when it is first needed. Where it is not installed, or there is no driver or no GPU, there is nothing to
query. `loaderlab.meter.nvml`, which runs as a script without this package, is the one exception.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def gpus() -> Iterator[list[Any]]:
    """NVML's handles of this machine's GPUs, in the driver's order, valid inside the block. A GPU that does not answer any
    more is left out."""
    try:
        import pynvml
    except ImportError:
        yield []
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        handles = []
        with contextlib.suppress(pynvml.NVMLError):
            for index in range(pynvml.nvmlDeviceGetCount()):
                with contextlib.suppress(pynvml.NVMLError):  # fallen off the bus
                    handles.append(pynvml.nvmlDeviceGetHandleByIndex(index))
        yield handles
    finally:
        pynvml.nvmlShutdown()


def query(gpu: Any, question: Callable[[Any, Any], T]) -> T | None:
    """The answer of one NVML query, or None where this GPU or driver does not support it.

    Args:
        gpu: one of the handles of `gpus`, inside its block.
        question: is called with the module pynvml and the handle.
    """
    import pynvml

    try:
        return question(pynvml, gpu)
    except pynvml.NVMLError:
        return None
