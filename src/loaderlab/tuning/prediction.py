"""Predicts the rate of a candidate from what was measured with others: the supply of the loader, the demand of the step, and how far
they slow each other down. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loaderlab.tuning.answer import Predicted
from loaderlab.tuning.candidate import DALI, RESIDENT, SPDL, Branch, Candidate
from loaderlab.tuning.trial import Facts, Measured

SATURATED = 0.25  # gain of one more maker / rate per maker, below which more makers are not expected to help
CLEARLY_STARVED_PCT = 10.0  # from here on, the rate of a run is that of its loader


def along(points: Mapping[int, float], position: int) -> float:
    """The value at a position, by linear interpolation; outside the known positions, the nearest value."""
    known = sorted(points)
    index = bisect_left(known, position)
    if index == 0:
        return points[known[0]]
    if index == len(known):
        return points[known[-1]]
    left, right = known[index - 1], known[index]
    share = (position - left) / (right - left)
    return points[left] + share * (points[right] - points[left])


def supply(points: Mapping[int, float], makers: int, most: float | None = None) -> float | None:
    """Samples/s of the loader alone with a number of makers; None if nothing is known.

    Below the lowest known count it is proportional to the makers. Above the highest one it grows as between the last two, which is
    at most proportionally; with one known count, proportionally.

    Args:
        points: samples/s by the number of makers, at least 1.
        most: samples/s that all cores can make.
    """
    if not points:
        return None
    known = sorted(points)
    last = known[-1]
    if makers <= known[0]:
        rate = points[known[0]] * makers / known[0]
    elif makers <= last:
        rate = along(points, makers)
    elif len(known) == 1:
        rate = points[last] * makers / last
    else:
        before = known[-2]
        proportional = points[last] / last
        slope = (points[last] - points[before]) / (last - before)
        slope = min(slope, proportional) if slope >= SATURATED * proportional else 0.0
        rate = points[last] + slope * (makers - last)
    return rate if most is None or makers <= last else min(rate, max(most, points[last]))


@dataclass
class Model:
    """What is known about a loader and a step. It learns from each trial.

    Attributes:
        facts: see `loaderlab.tuning.trial.Facts`.
        cores: that the loader and the step share.
    """

    facts: Facts
    cores: int
    _alone: dict[Branch, dict[int, float]] = field(default_factory=dict)  # by makers
    _implied: dict[Branch, dict[int, float]] = field(default_factory=dict)  # the rate of starved runs
    _ceilings: dict[int, float] = field(default_factory=dict)  # by torch threads
    _busy: list[float] = field(default_factory=list)  # rates of the step without its waits
    _host_ms: list[float] = field(default_factory=list)  # see `Measured.host_ms`
    _slowdowns: list[tuple[float, float]] = field(
        default_factory=list
    )  # (contended / ceiling, rate of the loader meanwhile)
    _core_s: dict[Branch, dict[int, float]] = field(default_factory=dict)  # CPU seconds of the loader per sample
    _whole_core_s: dict[Branch, float] = field(
        default_factory=dict
    )  # of the loader and the step, the least of all runs

    def learn(self, candidate: Candidate, measured: Measured) -> None:
        """Adds the result of a trial."""
        branch, makers = candidate.branch, candidate.makers
        if measured.loader_alone:
            self._alone.setdefault(branch, {})[makers] = measured.loader_alone
            if measured.loader_cores is not None:
                self._core_s.setdefault(branch, {})[makers] = measured.loader_cores / measured.loader_alone
        if measured.cpu_s_per_sample:
            known = self._whole_core_s.get(branch, math.inf)
            self._whole_core_s[branch] = min(known, measured.cpu_s_per_sample)
        if makers and measured.starved_pct >= CLEARLY_STARVED_PCT and not self._alone:
            self._implied.setdefault(branch, {})[makers] = measured.rate
        if measured.ceiling:
            self._ceilings[measured.torch_threads or 0] = measured.ceiling
            self._ceilings |= measured.ceiling_by_threads
            if measured.contended and measured.loader_alone:
                self._slowdowns.append((min(1.0, measured.contended / measured.ceiling), measured.loader_alone))
        if (
            measured.host_ms is not None and measured.starved_pct >= CLEARLY_STARVED_PCT
        ):  # otherwise it waits for the device too
            self._host_ms.append(measured.host_ms)
        if measured.starved_pct < 95:
            self._busy.append(measured.rate / (1 - measured.starved_pct / 100))

    def demand(self, makers: int) -> float | None:
        """Samples/s that the step takes if it never waits and nothing slows it down."""
        if self._ceilings:
            threads = max(1, self.cores - makers)
            return along(self._ceilings, threads) if self.facts.uses_host_cores else max(self._ceilings.values())
        return max(self._busy, default=None)

    def supply(self, branch: Branch, makers: int) -> float | None:
        """Samples/s of the loader alone; None if nothing is known about this branch."""
        alone = self._alone.get(branch, {})
        if makers == 0 and 0 in alone:
            return alone[0]
        points = {**self._implied.get(branch, {}), **{count: rate for count, rate in alone.items() if count}}
        if not points and 0 in alone:
            points = {1: alone[0]}
        core_s = self.core_s_per_sample(branch)
        most = self.cores / core_s if core_s else None
        return supply(points, max(1, makers), most)

    def alone(self, branch: Branch, makers: int) -> float | None:
        """Samples/s of the loader alone as measured with this number of makers; None if it was not."""
        return self._alone.get(branch, {}).get(makers)

    @property
    def knows_alone(self) -> bool:
        """Whether any loader was measured alone: an engine that cannot do this never does."""
        return bool(self._alone)

    def num_points(self, branch: Branch) -> int:
        """Number of counts at which the supply of a branch was measured."""
        return len({**self._alone.get(branch, {}), **self._implied.get(branch, {})})

    def cores_per_maker(self, branch: Branch) -> float | None:
        """CPU seconds per second of one busy maker, at the lowest count that was measured."""
        core_s = self._core_s.get(branch, {})
        count = min((count for count in core_s if count), default=0)
        return self._alone[branch][count] * core_s[count] / max(1, count) if count in core_s else None

    def core_s_per_sample(self, branch: Branch) -> float | None:
        """CPU seconds of the loader per sample, the least that was measured. If no loader was measured alone, as with scripts, those of
        the loader and the step, which share the cores. None: not measured."""
        if not self.knows_alone:
            return self.whole_core_s_per_sample(branch)
        return min(self._core_s.get(branch, {}).values(), default=None)

    def whole_core_s_per_sample(self, branch: Branch) -> float | None:
        """CPU seconds of the loader and the step per sample, the least that was measured; None: not measured."""
        return self._whole_core_s.get(branch)

    def predict(self, candidate: Candidate) -> Predicted | None:
        """The prediction for a candidate; None if nothing is known about its loader or about the step."""
        demand = self.demand(candidate.makers)
        if demand is None:
            return None
        if candidate.branch.backend == RESIDENT:
            return Predicted(demand, 0.0)
        made = self.supply(candidate.branch, candidate.makers)
        if made is None:
            return None
        if candidate.makers == 0 and self.facts.uses_host_cores:  # one after the other
            rate = 1 / (1 / demand + 1 / made)
            return Predicted(rate, 100 * rate / made)
        if candidate.makers == 0 and self._host_ms:  # the host loads a batch, then queues its step
            made = 1 / (1 / made + min(self._host_ms) / 1e3 / self.facts.batch_size)
        taken = demand * self._slowdown(min(made, demand))
        rate = min(made, taken)
        return Predicted(rate, 100 * (1 - rate / taken))

    def _slowdown(self, loading: float) -> float:
        """By how much the step gets slower, 0 to 1, while the loader makes ``loading`` samples/s: proportional to its work."""
        if not self._slowdowns:
            return 1.0
        factor, alone = min(self._slowdowns, key=lambda entry: abs(entry[1] - loading))
        return 1 - (1 - factor) * min(1.0, loading / alone)

    def supply_curve(self, branch: Branch, most: int) -> Sequence[tuple[int, float]]:
        """(makers, samples/s) for a picture."""
        least = 0 if 0 in self._alone.get(branch, {}) or branch.backend not in (SPDL, DALI) else 1
        rates = ((makers, self.supply(branch, makers)) for makers in range(least, most + 1))
        return [(makers, rate) for makers, rate in rates if rate is not None]

    def demand_curve(self, most: int) -> Sequence[tuple[int, float]]:
        """(makers, samples/s) for a picture."""
        rates = ((makers, self.demand(makers)) for makers in range(most + 1))
        return [(makers, rate) for makers, rate in rates if rate is not None]
