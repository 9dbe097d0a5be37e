"""Sets of moments on one clock, as sorted intervals that do not touch: what runs, what waits, and for how long. Pure."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FLOAT = npt.NDArray[np.float64]
PENDING = 1 << 20  # intervals that are kept as they came before they are joined: 16 MiB


@dataclass(frozen=True)
class Union:
    """Sorted intervals that do not touch each other; (N,) starts and ends in one unit, here microseconds."""

    starts: FLOAT
    ends: FLOAT

    def covered(self, starts: FLOAT, ends: FLOAT) -> FLOAT:
        """How much of each span (M,) lies in the set, in its unit."""
        return self._until(ends) - self._until(starts)

    def touches(self, starts: FLOAT, ends: FLOAT) -> bool:
        """Whether any span holds a moment of the set. An interval of no length counts from a span's start until before its
        end; one that only ends where a span starts does not."""
        points = self.starts[self.starts == self.ends]
        inside = np.searchsorted(points, ends, side="left") - np.searchsorted(points, starts, side="left")
        return bool(np.any(inside > 0) or np.any(self.covered(starts, ends) > 0))

    def _until(self, moments: FLOAT) -> FLOAT:
        """How much of the set lies before each moment."""
        if not len(self.starts):
            return np.zeros(len(moments))
        lengths = self.ends - self.starts
        before = np.concatenate([[0.0], np.cumsum(lengths)])
        index = np.searchsorted(self.starts, moments, side="right")  # intervals begun by then
        last = np.maximum(index - 1, 0)
        left = np.clip(self.ends[last] - moments, 0.0, lengths[last])  # of the last one, still to come
        return np.where(index > 0, before[index] - left, 0.0)


def union(starts: FLOAT, ends: FLOAT) -> Union:
    """The set that intervals in any order cover together; they may overlap, nest and repeat.

    >>> both = union(np.array([5.0, 0.0, 1.0]), np.array([6.0, 2.0, 3.0]))
    >>> both.starts.tolist(), both.ends.tolist()
    ([0.0, 5.0], [3.0, 6.0])
    """
    if not len(starts):
        return Union(np.zeros(0), np.zeros(0))
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    fresh = np.concatenate([[True], starts[1:] > reach[:-1]])  # begins after all before it have ended
    last = np.concatenate([np.flatnonzero(fresh)[1:] - 1, [len(starts) - 1]])
    return Union(starts[fresh], reach[last])


def join(*sets: Union) -> Union:
    """What lies in any of the sets."""
    return union(np.concatenate([one.starts for one in sets]), np.concatenate([one.ends for one in sets]))


class Growing:
    """A set that intervals are added to one by one; memory is bounded by the intervals that do not touch."""

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
