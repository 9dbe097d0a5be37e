"""A pass over a loader, and the number of samples in its batches. Does not import torch."""

from __future__ import annotations

from typing import Any


class Pass:
    """A pass over a loader.

    Attributes:
        recording: see `Recorder.recording`.
        size, length: samples per batch, and number of batches, if all batches but the last have the same size; otherwise 0.
        index: number of batches so far.
    """

    __slots__ = ("index", "length", "loader", "number", "recording", "size")

    def __init__(self, recording: object, loader: int, number: int, size: int, length: int) -> None:
        self.recording, self.loader, self.number = recording, loader, number
        self.size, self.length, self.index = size, length, 0

    def num_samples(self, batch: Any) -> int:
        """The number of samples in a batch, from the batch itself, which costs as much as the rest of a hook. The batches between the
        first and the last have `size` samples."""
        number = num_samples(batch)
        if self.index == 1 and number != self.size:
            self.length = 0  # each batch may have its own size
        return number


def num_samples(batch: Any) -> int:
    """The length of the first tensor or array of a batch, 0 if there is none: its first dimension counts samples in nearly all programs."""
    for _ in range(4):  # the depth of nested lists and dicts
        shape = getattr(batch, "shape", None)
        if shape is not None:
            return int(shape[0]) if len(shape) else 0
        if isinstance(batch, dict) or hasattr(batch, "values"):
            batch = next(iter(batch.values()), None)
        elif isinstance(batch, list | tuple) and batch:
            batch = batch[0]
        else:
            return 0
    return 0
