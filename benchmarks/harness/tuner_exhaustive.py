"""Compares the tuner with plain runs of every candidate. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.tuner_cases import BATCH, DEEP, MAX_STARVED_PCT, STEP_MS, TunerCase
from benchmarks.harness.tuner_judge import FED, OPEN, setting_of, states
from benchmarks.harness.tuner_runs import PlainRun, Setting, by_setting

RATE_PCT = 3.0  # by which the rate may be below that of a device that is just fed
MORE_MAKERS = 1  # that the tuner may choose more than needed


@dataclass(frozen=True)
class Exhaustive:
    """What all candidates show about a case, and how the tuner's choice compares.

    Attributes:
        cheapest: the cheapest candidate that is fed, by interval; None if none is.
        open: cheaper candidates whose interval contains the limit: they cannot be separated from it.
        chosen: the tuner's; None without one.
        rate: of the tuner's choice, median over its plain runs; required: with which the device is just fed.
    """

    case: TunerCase
    cheapest: Setting | None
    open: Sequence[Setting]
    chosen: Setting | None
    rate: float | None
    required: float
    num_runs: int

    @property
    def problems(self) -> str:
        """What is wrong with the tuner's choice; empty if nothing is, or if nothing feeds the device."""
        if self.chosen is None:
            return "the tuner chose nothing"
        if self.cheapest is None:
            return ""
        problems = []
        if self.chosen[0] > self.cheapest[0] + MORE_MAKERS:
            problems.append(f"{self.chosen[0]} workers instead of {self.cheapest[0]}")
        if self.rate is None:
            problems.append("no plain run of the chosen settings")
        elif self.rate < (1 - RATE_PCT / 100) * self.required:
            problems.append(f"{self.rate:.0f} samples/s, and {self.required:.0f} are required")
        return "; ".join(problems)


def candidates(case: TunerCase) -> list[Setting]:
    """Every candidate within the limits, the cheapest first."""
    return [(0, 0), *((makers, prefetch) for makers in range(1, case.most_makers + 1) for prefetch in DEEP)]


def compared(case: TunerCase, runs: Sequence[PlainRun], answer: Mapping[str, Any] | None) -> Exhaustive:
    """The comparison of one answer with the plain runs of this case."""
    known = states(runs)
    fed = [setting for setting, state in known.items() if state == FED]
    cheapest = min(fed, default=None)
    unclear = [
        setting for setting, state in known.items() if state == OPEN and (cheapest is None or setting < cheapest)
    ]
    chosen = setting_of(answer["chosen"]) if answer else None
    rates = [run.rate for run in by_setting(runs).get(chosen, [])] if chosen else []
    required = 1e3 * BATCH / STEP_MS * (1 - MAX_STARVED_PCT / 100)
    rate = statistics.median(rates) if rates else None
    return Exhaustive(case, cheapest, unclear, chosen, rate, required, len(runs))
