"""The confidence interval of a share over the steps of one run, and whether the share changed during it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

FLOAT = npt.NDArray[np.float64]
BLOCKS = 20
KOLMOGOROV = 1.95  # 99.9 % point of the supremum of a Brownian bridge (Kolmogorov's distribution)
LEAST_STEPS = 15  # needed to estimate a share
LEAST_CHANGE = 0.05  # a smaller change of a share is not reported


@dataclass(frozen=True)
class Change:
    """A share that changed at step ``index``. Shares are 0 to 1."""

    index: int
    before: float
    after: float


def ratio_interval(parts: Sequence[float], wholes: Sequence[float], period: int = 1) -> tuple[float, float] | None:
    """95 % confidence interval of sum(parts) / sum(wholes) over steps that are correlated.

    Computed from the means of up to 20 blocks of consecutive steps (batch means: Law, Simulation Modeling and Analysis,
    section 9.5) and Student's t.

    Args:
        parts, wholes: of each step, in any common unit.
        period: length of the bursts in which batches arrive (the number of workers): no block is shorter.

    Returns:
        None with fewer than three blocks.
    """
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    blocks = _blocks(len(part), period)
    if blocks < 3 or whole.sum() <= 0:
        return None
    ratio = part.sum() / whole.sum()
    deviations = np.array([chunk.sum() for chunk in np.array_split(part - ratio * whole, blocks)])
    spread = float(np.sqrt(blocks / (blocks - 1) * np.square(deviations).sum())) / float(whole.sum())
    margin = float(stdtrit(blocks - 1, 0.975)) * spread
    return float(ratio) - margin, float(ratio) + margin


def change_point(parts: Sequence[float], wholes: Sequence[float], period: int = 1) -> Change | None:
    """The step at which a share changed, or None if there is no change of 5 percentage points or more.

    The largest cumulative deviation from the mean share (CUSUM) is compared with the supremum of a Brownian bridge. Its
    scale is the long-run deviation of the residuals, so that correlated steps or regular stalls are not taken for a
    change.
    """
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    count = len(part)
    edge = max(LEAST_STEPS, period, count // BLOCKS)  # minimum number of steps on each side
    if count < 2 * edge or whole.sum() <= 0:
        return None
    deviations = part - part.sum() / whole.sum() * whole
    cumulative = np.abs(np.cumsum(deviations))[edge - 1 : count - edge]
    index = int(np.argmax(cumulative)) + edge
    before, after = _ratio(part[:index], whole[:index]), _ratio(part[index:], whole[index:])
    if abs(after - before) < LEAST_CHANGE:
        return None
    residuals = np.concatenate([part[:index] - before * whole[:index], part[index:] - after * whole[index:]])
    blocks = _blocks(count, period)
    long_run = float(np.std([chunk.sum() for chunk in np.array_split(residuals, blocks)]) / np.sqrt(count / blocks))
    if float(cumulative.max()) <= KOLMOGOROV * long_run * np.sqrt(count):
        return None
    return Change(index, before, after)


def _blocks(count: int, period: int) -> int:
    return min(BLOCKS, count // max(1, period))


def _ratio(part: FLOAT, whole: FLOAT) -> float:
    return float(part.sum() / whole.sum()) if whole.sum() else 0.0
