"""Access to NVML, the query library of NVIDIA's driver.

pynvml is imported when it is first needed. Without pynvml, driver or GPU, the list of GPUs is empty. All NVML queries are made
here, except in `loaderlab.meter.nvml`, which runs as a script without this package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def gpus() -> Iterator[list[Any]]:
    """NVML handles of this machine's GPUs in the driver's order, valid inside the block. A GPU that no longer responds is left
    out."""
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
                with contextlib.suppress(pynvml.NVMLError):  # the GPU no longer responds
                    handles.append(pynvml.nvmlDeviceGetHandleByIndex(index))
        yield handles
    finally:
        pynvml.nvmlShutdown()


def query(gpu: Any, question: Callable[[Any, Any], T]) -> T | None:
    """The result of one NVML query; None if the GPU or driver does not support it.

    Args:
        gpu: a handle from `gpus`, inside its block.
        question: called with the module pynvml and the handle.
    """
    import pynvml

    try:
        return question(pynvml, gpu)
    except pynvml.NVMLError:
        return None
