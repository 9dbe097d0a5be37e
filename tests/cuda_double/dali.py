"""A double of DALI's GPU pipelines: DALI's own CPU pipeline, whose outputs are put into device memory.

The memory belongs to a pool of DALI, on a stream of DALI, which does not wait for what torch has queued. Each output is
ready when `run` returns it, and the pipeline has already begun with the next ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from loaderlab.loaders import dali_graph, dali_single
from tests.cuda_double.double import DEVICE, Double


class _Output:
    """An output tensor in the device's memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def as_tensor(self) -> _Output:
        return self

    def __dlpack__(self, stream: int | None = None) -> _Output:
        assert stream == -1, "any other value makes torch wait for DALI's stream, which works on the next batches"
        return self

    def view(self) -> torch.Tensor:
        return self._tensor


class _Pipeline:
    """A pipeline that works ahead by one batch."""

    def __init__(self, pipeline: Any, double: Double) -> None:
        self._pipeline, self._double = pipeline, double
        self._stream = double.new_stream()
        self._ready: deque[tuple[Any, ...]] = deque()
        self._ended = False

    def build(self) -> None:
        self._pipeline.build()

    def run(self) -> tuple[Any, ...]:
        self._work_ahead(1)
        if not self._ready:
            raise StopIteration
        outputs = self._ready.popleft()
        self._stream.wait_on_host()  # as DALI does
        self._work_ahead(1)
        return outputs

    def reset(self) -> None:
        self._pipeline.reset()
        self._ended = False

    def _work_ahead(self, count: int) -> None:
        while len(self._ready) < count and not self._ended:
            try:
                inputs, targets, ids, within = self._pipeline.run()
            except StopIteration:
                self._ended = True
                return
            with self._double.stream(self._stream):
                self._double.work(1_000_000, "dali")
                moved = [_Output(_on_device(output)) for output in (inputs, targets)]
            self._ready.append((*moved, ids, within))


def _on_device(output: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(output.as_array())).pin_memory().to(DEVICE, non_blocking=True)


@contextmanager
def dali_on(double: Double) -> Iterator[None]:
    """Pipelines that would need a GPU are doubles."""
    compose, from_dlpack = dali_graph.compose, torch.utils.dlpack.from_dlpack

    def composed(split: Any, config: Any, decode: str, feed: Any, *, device_id: int | None, **settings: Any) -> Any:
        pipeline = compose(split, config, "cpu", feed, device_id=None, **settings)
        return pipeline if device_id is None else _Pipeline(pipeline, double)

    single = dali_single.DecoderChoice.pipeline

    def single_on_host(choice: dali_single.DecoderChoice, num_images: int) -> Any:
        return single(replace(choice, decode="cpu"), num_images)

    def viewed(source: Any) -> torch.Tensor:
        return source.view() if isinstance(source, _Output) else from_dlpack(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dali_graph, "compose", composed)
        patch.setattr(dali_single.DecoderChoice, "pipeline", single_on_host)
        patch.setattr(torch.utils.dlpack, "from_dlpack", viewed)
        yield
