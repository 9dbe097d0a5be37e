"""The share of the time for which a device was starved, ends of epochs included, and what follows from its interval. Pure."""

from __future__ import annotations

from loaderlab.tuning.trial import Interval, Measured

FED, NOT_FED, OPEN = "fed", "not fed", "open"


def gap_share(measured: Measured, epoch_steps: int | None) -> float:
    """Share of the time that is lost between epochs, 0 to 1, if an epoch has ``epoch_steps`` steps.

    A trial shortens its epochs, so that it contains the end of one. Its share of the time is computed for a whole epoch.
    """
    if not measured.gap_ms or not epoch_steps:
        return 0.0
    return measured.gap_ms / (measured.gap_ms + epoch_steps * measured.step_ms)


def lost(measured: Measured, epoch_steps: int | None) -> tuple[float, Interval | None]:
    """The share that a trial lost, percent, and its 95 % interval within the run."""
    gap = gap_share(measured, epoch_steps)

    def whole(share: float) -> float:
        return min(100.0, max(0.0, share) * (1 - gap) + 100 * gap)

    interval = measured.starved_interval
    return whole(measured.starved_pct), None if interval is None else (whole(interval[0]), whole(interval[1]))


def grade(interval: Interval | None, limit_pct: float) -> str:
    """FED if a lost share is below the limit, NOT_FED if it is not, OPEN if its interval contains the limit."""
    if interval is None:
        return OPEN
    low, high = interval
    return FED if high < limit_pct else NOT_FED if low >= limit_pct else OPEN
