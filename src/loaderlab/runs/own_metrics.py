"""The metrics that the user's own step returns, as means over some steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from loaderlab.tracking.untracked import Untracked
from loaderlab.training.rank_group import RankGroup

if TYPE_CHECKING:
    from loaderlab.tracking.tracked_run import TrackedRun  # imports MLflow, which only rank 0 needs


class OwnMetrics:
    """Collects the metrics of each step without waiting for the device, until `record`.

    Args:
        every: steps per point.

    Attributes:
        last: the last recorded value of each metric.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._block: dict[str, list[Any]] = {}  # of the steps since the last point
        self._num_steps = self._step = 0
        self._points: list[tuple[int, str, Any]] = []
        self.last: dict[str, float] = {}

    def add(self, measured: Mapping[str, Any], step: int) -> None:
        """Adds the metrics of a step: numbers, or tensors of one number on the device.

        Args:
            step: its number, counted from 1.
        """
        self._num_steps, self._step = self._num_steps + 1, step
        for name, value in measured.items():
            self._block.setdefault(name, []).append(value)
        if self._num_steps == self._every:
            self._end_block()

    def record(self, tracked: TrackedRun | Untracked, group: RankGroup | None = None) -> None:
        """Records the points since the last call, at the last step of each. Waits for the device.

        Args:
            group: all ranks call this now, so that each point is the mean over the ranks that have it; otherwise it is this rank's.
        """
        self._end_block()
        points = [(step, name, float(mean)) for step, name, mean in self._points]
        self._points = []
        if group is not None:
            points = _over_ranks(group.all_gather(points))
        for step, name, value in points:
            tracked.metric(name, value, step)
            self.last[name] = value

    def _end_block(self) -> None:
        for name, values in self._block.items():
            self._points.append((self._step, name, _mean(values)))
        self._block, self._num_steps = {}, 0


def _mean(values: list[Any]) -> Any:
    if any(isinstance(value, torch.Tensor) for value in values):
        device = next(value.device for value in values if isinstance(value, torch.Tensor))
        return torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in values]).mean()
    return sum(values) / len(values)


def _over_ranks(of_ranks: list[list[tuple[int, str, float]]]) -> list[tuple[int, str, float]]:
    values: dict[tuple[int, str], list[float]] = {}
    for points in of_ranks:
        for step, name, value in points:
            values.setdefault((step, name), []).append(value)
    return [(step, name, sum(own) / len(own)) for (step, name), own in values.items()]
