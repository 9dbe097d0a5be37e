"""The kernels of one device stream: they run one after the other, so each is cut where the next one starts. Pure.

ROCm's profiler sometimes writes a duration that is too long, so that one kernel covers the next ones of its stream
(AMD-AGI/TraceLens#669). Perfetto clips such a kernel in the same way.
"""

from __future__ import annotations

from array import array

import numpy as np

from loaderlab.trace.intervals import FLOAT, Union, union

ROUNDING_US = 2.0  # allowed overlap: some profilers write whole microseconds


def cut_at_next(starts: FLOAT, ends: FLOAT) -> tuple[FLOAT, FLOAT, int]:
    """Kernels in order of time, each cut where the next one starts, and the number that end after the next one's end.

    Kernels with the same start do not cut each other, since it is not known which of them is correct, and a kernel of
    length 0 cuts nothing (pytorch/kineto#136). A kernel that overlaps the next one and ends before its end, as with CUDA's
    programmatic dependent launch, is not counted: the device's busy time is the same with and without the cut.

    >>> starts, ends, count = cut_at_next(np.array([0.0, 10.0, 30.0]), np.array([90.0, 20.0, 40.0]))
    >>> starts.tolist(), ends.tolist(), count
    ([0.0, 10.0, 30.0], [10.0, 20.0, 40.0], 1)
    """
    has_length = ends > starts
    starts, ends = starts[has_length], ends[has_length]
    order = np.lexsort((ends, starts))
    starts, ends = starts[order], ends[order]
    following = np.searchsorted(starts, starts, side="right")  # the first kernel that starts later
    cut = np.minimum(ends, np.append(starts, np.inf)[following])
    next_end = np.append(cut, np.inf)[following]
    return starts, cut, int(np.sum(ends > next_end + ROUNDING_US))


class Stream:
    """Kernels that are added one by one, in any order; each takes 16 bytes of memory."""

    def __init__(self) -> None:
        self._starts, self._ends = array("d"), array("d")

    def add(self, start: float, end: float) -> None:
        self._starts.append(start)
        self._ends.append(end)

    def busy(self, cut: bool) -> tuple[Union, int]:
        """The time in which a kernel runs, and the number of kernels that end after the next one; without ``cut`` these
        keep their length."""
        as_written = np.array(self._starts), np.array(self._ends)
        starts, ends, outlasting = cut_at_next(*as_written)
        return union(starts, ends) if cut else union(*as_written), outlasting
