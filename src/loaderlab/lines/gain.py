"""What a training would gain without a part of its loader. Pure."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_GAIN_X = 1.01  # below, nothing is gained


@dataclass(frozen=True)
class Gain:
    """Predicted factors, each 1.0 or more.

    Attributes:
        loader_x: how many times as many samples the loader would make per second.
        device_x: how many times as many the device can take.
        run_x: how many times as fast the training would be.
    """

    loader_x: float
    device_x: float
    run_x: float


def gain_without(share: float, *, waits: float, num_workers: int, device_x: float | None = None) -> Gain:
    """The gain if a part of the loader's work took no time.

    With workers, the loader and the device work at the same time, and the slower one limits the run. Without workers they take turns: the
    step becomes shorter by the part's time.

    Args:
        share: of the part in the busy time of a worker, 0 to 1 (exclusive).
        waits: share of the step time in which the device waits for data, 0 to 1 (exclusive).
        device_x: how many times as many samples the device can take, from a measurement of its own; by default ``1 / (1 - waits)``, the step
            without its waits.
    """
    share, waits = min(max(share, 0.0), 0.999), min(max(waits, 0.0), 0.999)
    loader_x = 1 / (1 - share)
    most = max(1.0, 1 / (1 - waits) if device_x is None else device_x)
    run_x = 1 / (1 - waits * share) if num_workers == 0 else loader_x
    return Gain(loader_x, most, min(run_x, most))
