"""The kernels of one stream of a device: they run one after the other, so each is cut where the next one starts. Pure.

ROCm's profiler may write the duration of one kernel so long that it covers the next kernels of its stream
(AMD-AGI/TraceLens#669); Perfetto clips such a kernel in the same way.
"""

from __future__ import annotations

from array import array

import numpy as np

from loaderlab.trace.intervals import FLOAT, Union, union

ROUNDING_US = 2.0  # by which a kernel may seem to outlast the next one: profilers that write whole microseconds


def cut_at_next(starts: FLOAT, ends: FLOAT) -> tuple[FLOAT, FLOAT, int]:
    """Kernels in the order of time, each cut where the next one starts, and how many of them outlast the next one.

    Kernels that start at the same moment do not cut each other, since nothing says which of them is right, and one of
    no length cuts nothing (pytorch/kineto#136). A kernel that overlaps the next one and ends before it, as with CUDA's
    programmatic dependent launch, is not counted: the device is busy at the same moments with the cut and without.

    >>> starts, ends, count = cut_at_next(np.array([0.0, 10.0, 30.0]), np.array([90.0, 20.0, 40.0]))
    >>> starts.tolist(), ends.tolist(), count
    ([0.0, 10.0, 30.0], [10.0, 20.0, 40.0], 1)
    """
    some = ends > starts
    starts, ends = starts[some], ends[some]
    order = np.lexsort((ends, starts))
    starts, ends = starts[order], ends[order]
    following = np.searchsorted(starts, starts, side="right")  # the first that starts later
    cut = np.minimum(ends, np.append(starts, np.inf)[following])
    next_end = np.append(cut, np.inf)[following]
    return starts, cut, int(np.sum(ends > next_end + ROUNDING_US))


class Stream:
    """Kernels that are added one by one, in any order; memory is 16 bytes for each."""

    def __init__(self) -> None:
        self._starts, self._ends = array("d"), array("d")

    def add(self, start: float, end: float) -> None:
        self._starts.append(start)
        self._ends.append(end)

    def busy(self, cut: bool) -> tuple[Union, int]:
        """When a kernel runs, and how many kernels outlast the next one; these are left whole unless ``cut``."""
        whole = np.array(self._starts), np.array(self._ends)
        starts, ends, outlasting = cut_at_next(*whole)
        return union(starts, ends) if cut else union(*whole), outlasting
