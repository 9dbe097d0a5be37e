"""The confidence interval of a share over the steps of one run, and whether the share changed on the way. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

FLOAT = npt.NDArray[np.float64]
BLOCKS = 20
KOLMOGOROV = 1.95  # 99.9 % point of the supremum of a Brownian bridge (Kolmogorov's distribution)
LEAST_STEPS = 15  # of which a share can be told
LEAST_CHANGE = 0.05  # a smaller change of a share is not worth a word


@dataclass(frozen=True)
class Change:
    """A share was one thing before a step and another from it on. Shares are 0 to 1."""

    index: int
    before: float
    after: float


def ratio_interval(parts: Sequence[float], wholes: Sequence[float], period: int = 1) -> tuple[float, float] | None:
    """95 % interval of sum(parts) / sum(wholes) over steps that are correlated, by the means of up to 20 blocks of
    consecutive steps (batch means: Law, Simulation Modeling and Analysis, section 9.5) and Student's t.

    Args:
        parts, wholes: of each step, in any common unit.
        period: steps that come in bursts of this many (as many as workers): no block is shorter.

    Returns:
        None where there are fewer than three blocks.
    """
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    blocks = _blocks(len(part), period)
    if blocks < 3 or whole.sum() <= 0:
        return None
    ratio = part.sum() / whole.sum()
    off = np.array([chunk.sum() for chunk in np.array_split(part - ratio * whole, blocks)])
    spread = float(np.sqrt(blocks / (blocks - 1) * np.square(off).sum())) / float(whole.sum())
    margin = float(stdtrit(blocks - 1, 0.975)) * spread
    return float(ratio) - margin, float(ratio) + margin


def change_point(parts: Sequence[float], wholes: Sequence[float], period: int = 1) -> Change | None:
    """The step from which on a share is another than before, if there is one: the largest cumulated deviation from the
    mean share (CUSUM), held against the supremum of a Brownian bridge, with the long-run deviation of what is
    left after the change, so that correlated steps or regular stalls do not pass for one.

    Returns:
        None where no change of 5 points or more shows.
    """
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    count = len(part)
    edge = max(LEAST_STEPS, period, count // BLOCKS)  # steps that each side has at least
    if count < 2 * edge or whole.sum() <= 0:
        return None
    off = part - part.sum() / whole.sum() * whole
    cumulated = np.abs(np.cumsum(off))[edge - 1 : count - edge]
    index = int(np.argmax(cumulated)) + edge
    before, after = _ratio(part[:index], whole[:index]), _ratio(part[index:], whole[index:])
    if abs(after - before) < LEAST_CHANGE:
        return None
    left = np.concatenate([part[:index] - before * whole[:index], part[index:] - after * whole[index:]])
    blocks = _blocks(count, period)
    long_run = float(np.std([chunk.sum() for chunk in np.array_split(left, blocks)]) / np.sqrt(count / blocks))
    if float(cumulated.max()) <= KOLMOGOROV * long_run * np.sqrt(count):
        return None
    return Change(index, before, after)


def _blocks(count: int, period: int) -> int:
    return min(BLOCKS, count // max(1, period))


def _ratio(part: FLOAT, whole: FLOAT) -> float:
    return float(part.sum() / whole.sum()) if whole.sum() else 0.0
