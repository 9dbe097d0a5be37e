"""Sets of time on one clock, as sorted intervals that do not touch each other. Pure."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FLOAT = npt.NDArray[np.float64]
PENDING = 1 << 20  # intervals that are stored before they are joined: 16 MiB


@dataclass(frozen=True)
class Union:
    """Sorted intervals that do not touch each other; (N,) starts and ends in the same unit, here microseconds."""

    starts: FLOAT
    ends: FLOAT

    def covered(self, starts: FLOAT, ends: FLOAT) -> FLOAT:
        """The time of each span (M,) that lies in the set, in the set's unit."""
        return self._until(ends) - self._until(starts)

    def touches(self, starts: FLOAT, ends: FLOAT) -> bool:
        """Whether the set has time in any span. An interval of length 0 counts if it is at a span's start or inside it, not
        at its end; an interval that ends where a span starts does not count."""
        points = self.starts[self.starts == self.ends]
        inside = np.searchsorted(points, ends, side="left") - np.searchsorted(points, starts, side="left")
        return bool(np.any(inside > 0) or np.any(self.covered(starts, ends) > 0))

    def _until(self, moments: FLOAT) -> FLOAT:
        """The time of the set before each moment."""
        if not len(self.starts):
            return np.zeros(len(moments))
        lengths = self.ends - self.starts
        before = np.concatenate([[0.0], np.cumsum(lengths)])
        index = np.searchsorted(self.starts, moments, side="right")  # intervals that began before
        last = np.maximum(index - 1, 0)
        remaining = np.clip(self.ends[last] - moments, 0.0, lengths[last])  # of the last interval, after the moment
        return np.where(index > 0, before[index] - remaining, 0.0)


def union(starts: FLOAT, ends: FLOAT) -> Union:
    """The union of intervals in any order; they may overlap, nest and repeat.

    >>> both = union(np.array([5.0, 0.0, 1.0]), np.array([6.0, 2.0, 3.0]))
    >>> both.starts.tolist(), both.ends.tolist()
    ([0.0, 5.0], [3.0, 6.0])
    """
    if not len(starts):
        return Union(np.zeros(0), np.zeros(0))
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    is_first = np.concatenate([[True], starts[1:] > reach[:-1]])  # begins after all earlier ones have ended
    last = np.concatenate([np.flatnonzero(is_first)[1:] - 1, [len(starts) - 1]])
    return Union(starts[is_first], reach[last])


def join(*sets: Union) -> Union:
    """The union of the sets."""
    return union(np.concatenate([one.starts for one in sets]), np.concatenate([one.ends for one in sets]))


class Growing:
    """A set to which intervals are added one by one; its memory depends only on the intervals that do not touch."""

    def __init__(self) -> None:
        self._joined = Union(np.zeros(0), np.zeros(0))
        self._starts, self._ends = array("d"), array("d")

    def add(self, start: float, end: float) -> None:
        self._starts.append(start)
        self._ends.append(end)
        if len(self._starts) > max(PENDING, len(self._joined.starts)):
            self.union()

    def union(self) -> Union:
        """The set so far."""
        if self._starts:
            pending = union(np.array(self._starts), np.array(self._ends))
            self._joined = join(self._joined, pending)
            self._starts, self._ends = array("d"), array("d")
        return self._joined
