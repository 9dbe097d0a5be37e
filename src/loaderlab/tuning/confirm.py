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
from loaderlab.tuning.lost import FED, NOT_FED, OPEN, grade, lost
from loaderlab.tuning.search import Search, Trials
from loaderlab.tuning.trial import Measured, Trial, TrialFailed

WINDOW_S = 3.0  # measured window of a run
ROUNDS = 3

HasTime = Callable[[Sequence[Candidate]], bool]


class Confirmation:
    """Runs the settings that matter again. Use it like `loaderlab.tuning.search.Search`.

    Args:
        search: with its results.
        has_time: whether there is time for one more run of each of these settings.

    Attributes:
        searching: it has contradicted the search, or has shown that the time between epochs matters; the search has not ended yet.
    """

    def __init__(self, search: Search, has_time: HasTime) -> None:
        self._search, self._results, self._has_time = search, search.results, has_time
        self._runs: dict[Candidate, list[Measured]] = {}
        self._died: set[Candidate] = set()
        self.errors: list[str] = []
        self.searching = False
        best = self._results.cheapest_fed() or self._results.fastest()
        assert best is not None, "there is nothing to confirm"
        self.chosen: Candidate = best.candidate
        self.neighbour: Candidate | None = self._below(self.chosen)

    @property
    def settings(self) -> list[Candidate]:
        """What is run in each round, without duplicates. The settings now are left out if they are beyond a limit."""
        fastest = self._results.fastest()
        named = [
            self.chosen,
            self.neighbour,
            None if self._results.why_not_current else self._results.facts.current,
            None if fastest is None else fastest.candidate,
        ]
        return list(dict.fromkeys(candidate for candidate in named if candidate is not None))

    def trials(self) -> Trials:
        """The runs. If they contradict the search, or show that too much time is lost between epochs, it goes on with what they showed, and
        its new choice is confirmed too, while there is time."""
        new = self.settings
        while new:
            yield from self._rounds(new)
            contradicted = self._results.correct(self._grades(), self.confirmed)
            self._choose()
            is_fed = self._grades().get(self.chosen, FED) == FED
            self.searching = contradicted or (not is_fed and self._search.gaps_matter(self.chosen))
            if not self.searching:
                return
            yield from self._search.more_trials()
            self.searching = False
            self._choose()
            known = self._grades()
            new = [one for one in (self.chosen, self.neighbour) if one is not None and one not in known]
            if not self._has_time(ROUNDS * new):
                return

    def _grades(self) -> dict[Candidate, str]:
        """The grades of the confirmation; OPEN for settings that died in it."""
        return {one: self.grade(one) for one, runs in self._runs.items() if len(runs) >= ROUNDS} | dict.fromkeys(
            self._died, OPEN
        )

    def _choose(self) -> None:
        """Chooses the cheapest settings that feed the device, as far as is known. Without any, those chosen before, unless they are shown not
        to feed it: then the fastest."""
        best = self._results.cheapest_fed()
        if best is None and self._grades().get(self.chosen) == NOT_FED:
            best = self._results.fastest()
        if best is not None:
            self.chosen = best.candidate
        self.neighbour = self._below(self.chosen)

    def _below(self, candidate: Candidate) -> Candidate | None:
        """The next cheaper settings: the costliest ones that are not shown not to feed the device, or else those of the search."""
        price = self._results.price
        doubtful = [one for one, known in self._grades().items() if known != NOT_FED and price(one) < price(candidate)]
        if doubtful:
            return max(doubtful, key=price)
        found = self._results.neighbour(candidate)
        return None if found is None else found.candidate

    def _rounds(self, settings: Sequence[Candidate]) -> Trials:
        for number in range(1, ROUNDS + 1):
            if not self._has_time(settings):
                return
            # every second round in reverse: a machine that gets slower affects all settings equally
            for candidate in settings if number % 2 else reversed(settings):
                epoch_steps = self._results.short_epoch(candidate, WINDOW_S)
                result = yield Trial(candidate, self._role(candidate), WINDOW_S, epoch_steps=epoch_steps, round=number)
                if isinstance(result, TrialFailed):
                    self._died.add(candidate)
                    self.errors.append(f"{candidate.title} died in the confirmation: {result}")
                else:
                    self._runs.setdefault(candidate, []).append(result)

    def _role(self, candidate: Candidate) -> str:
        roles = [
            (self.chosen, "the chosen settings"),
            (self.neighbour, "the next cheaper settings"),
            (self._results.facts.current, "the settings now"),
        ]
        return next((text for known, text in roles if known == candidate), "the fastest settings")

    def grade(self, candidate: Candidate) -> str:
        """Whether the device is fed, by the runs of the confirmation; OPEN with fewer than three of them."""
        runs = self._runs.get(candidate, [])
        if len(runs) < ROUNDS:
            return OPEN
        return grade(self._confirmed(candidate).lost_interval, self._results.limit_pct)

    @property
    def confirmed(self) -> dict[Candidate, Confirmed]:
        """The results so far."""
        return {candidate: self._confirmed(candidate) for candidate in self._runs}

    def _confirmed(self, candidate: Candidate) -> Confirmed:
        runs = self._runs[candidate]
        shares = [lost(run, self._results.facts.epoch_steps)[0] for run in runs]
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
