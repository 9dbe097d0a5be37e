"""The confirmation: the chosen settings, their cheaper neighbour, the current and the fastest settings run again in fresh processes, in
interleaved rounds. Pure.

The best of many noisy trials looks better than it is. Only the figures of these runs are reported, and the certificate is based on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from loaderlab.compare.stats import mean_interval
from loaderlab.tuning.answer import Confirmed
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.lost import FED, OPEN, grade, lost
from loaderlab.tuning.search import Search, Trials
from loaderlab.tuning.trial import LEAST_STEPS, Measured, Trial, TrialFailed

WINDOW_S = 3.0  # measured window of a run
ROUNDS = 3

HasTime = Callable[[Sequence[Candidate]], bool]


class Confirmation:
    """Runs the settings that matter again. Use it like `loaderlab.tuning.search.Search`.

    Args:
        search: with its results.
        has_time: whether there is time for one more run of each of these settings.
    """

    def __init__(self, search: Search, has_time: HasTime) -> None:
        self._search, self._has_time = search, has_time
        self._runs: dict[Candidate, list[Measured]] = {}
        self.errors: list[str] = []
        best = search.cheapest_fed() or search.fastest()
        assert best is not None, "there is nothing to confirm"
        self.chosen: Candidate = best.candidate
        self.neighbour: Candidate | None = self._below(self.chosen)

    @property
    def settings(self) -> list[Candidate]:
        """What is run in each round, without duplicates."""
        fastest = self._search.fastest()
        named = [
            self.chosen,
            self.neighbour,
            self._search.facts.current,
            None if fastest is None else fastest.candidate,
        ]
        return list(dict.fromkeys(candidate for candidate in named if candidate is not None))

    def trials(self) -> Trials:
        """The runs. If they contradict the search, its next better choice is confirmed too, while there is time."""
        yield from self._rounds(self.settings)
        while (changed := self._other_choice()) is not None:
            self.chosen, self.neighbour = changed
            new = [candidate for candidate in changed if candidate is not None and candidate not in self._runs]
            if new and not self._has_time(ROUNDS * new):
                return
            yield from self._rounds(new)

    def _other_choice(self) -> tuple[Candidate, Candidate | None] | None:
        """The choice that follows from the confirmation, with its neighbour; None if it stays the same."""
        if self.grade(self.chosen) != FED:
            costlier = self._search.next_costlier(self.chosen)
            if costlier is None or (costlier.candidate in self._runs and self.grade(costlier.candidate) != FED):
                return None
            return costlier.candidate, self.chosen
        if self.neighbour is not None and self.grade(self.neighbour) == FED:
            return self.neighbour, self._below(self.neighbour)
        return None

    def _below(self, candidate: Candidate) -> Candidate | None:
        found = self._search.neighbour(candidate)
        return None if found is None else found.candidate

    def _rounds(self, settings: Sequence[Candidate]) -> Trials:
        for number in range(1, ROUNDS + 1):
            if not self._has_time(settings):
                return
            # every second round in reverse: a machine that gets slower affects all settings equally
            for candidate in settings if number % 2 else reversed(settings):
                trial = Trial(
                    candidate, self._role(candidate), WINDOW_S, epoch_steps=self._epoch_steps(candidate), round=number
                )
                result = yield trial
                if isinstance(result, TrialFailed):
                    self.errors.append(f"{candidate.title} died in the confirmation: {result}")
                else:
                    self._runs.setdefault(candidate, []).append(result)

    def _role(self, candidate: Candidate) -> str:
        roles = [
            (self.chosen, "the chosen settings"),
            (self.neighbour, "the next cheaper settings"),
            (self._search.facts.current, "the settings now"),
        ]
        return next((text for known, text in roles if known == candidate), "the fastest settings")

    def _epoch_steps(self, candidate: Candidate) -> int | None:
        """The steps of an epoch, so that the end of one is in the middle of the window; None if an epoch is short enough."""
        whole = self._search.facts.epoch_steps
        known = next((found.measured for found in self._search.found if found.candidate == candidate), None)
        if whole is None or known is None:
            return None
        half = max(LEAST_STEPS, round(1e3 * WINDOW_S / 2 / known.step_ms)) + candidate.batches_ahead + candidate.makers
        return half if half < whole else None

    def grade(self, candidate: Candidate) -> str:
        """Whether the device is fed, by the runs of the confirmation; OPEN with fewer than three of them."""
        runs = self._runs.get(candidate, [])
        if len(runs) < ROUNDS:
            return OPEN
        return grade(self._confirmed(candidate).lost_interval, self._search.limit_pct)

    @property
    def confirmed(self) -> dict[Candidate, Confirmed]:
        """The results so far."""
        return {candidate: self._confirmed(candidate) for candidate in self._runs}

    def _confirmed(self, candidate: Candidate) -> Confirmed:
        runs = self._runs[candidate]
        shares = [lost(run, self._search.facts.epoch_steps)[0] for run in runs]
        rates = [run.rate for run in runs]
        interval = mean_interval(shares)
        return Confirmed(
            candidate,
            tuple(runs),
            fmean(shares),
            None if interval is None else (max(0.0, interval[0]), min(100.0, interval[1])),
            fmean(rates),
            mean_interval(rates),
        )
