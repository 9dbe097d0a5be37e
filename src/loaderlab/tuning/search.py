"""Which candidate is tried next, and why: the search for the cheapest settings that feed the device. Pure.

It follows a prediction, so that it needs few trials, and believes only measurements: predicted settings are tried, and so are the
next cheaper ones, until these do not feed the device.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace

from loaderlab.tuning.answer import Excluded
from loaderlab.tuning.candidate import DALI, NATIVE, RESIDENT, SPDL, Branch, Candidate
from loaderlab.tuning.lost import FED, NOT_FED
from loaderlab.tuning.results import GAIN, Found, Results
from loaderlab.tuning.trial import Measured, Trial, TrialFailed

WINDOW_S = 2.0  # measured window of a trial
PREFETCH = {NATIVE: 2, SPDL: 3, DALI: 2, "own": 2}  # batches queued ahead, unless waits jitter
LONGER_QUEUES = (4, 8)
ENOUGH = 0.98  # supply / demand from which the loader is fast enough, and its waits are jitter
NOTICED_PCT = 1.0  # a smaller share of the time is not worth a change of settings
LITTLE_PCT = 20.0  # starved share up to which a longer queue may be enough
FEW = 2  # counts that are tried one after the other instead of halving their range
EXAMINED = 2  # counts beyond the fastest one that are tried before more makers are given up

Refuses = Callable[[Branch], str]
Sending = Measured | TrialFailed
Trials = Generator[Trial, Sending, None]


class Search:
    """One search. Use: ``trials = search.trials(); trial = next(trials)``, then ``trials.send(measured)`` for the next one.

    Args:
        results: those of its trials; none yet.
        refuses: says why a branch cannot be used, empty if it can; is called only before its first trial, and may take long.
        has_time: whether there is time for one more trial; is called before ``refuses``.

    Attributes:
        notes: what the user should know of it.
    """

    def __init__(self, results: Results, refuses: Refuses, has_time: Callable[[], bool]) -> None:
        self.results, self.facts = results, results.facts
        self.notes: list[str] = []
        self._bases: dict[Branch, Candidate] = {}  # the settings that all counts of a branch have in common
        self._refuses, self._has_time = refuses, has_time

    # ---- what is left ----------------------------------------------------------------------------------------------

    def all_below_tried(self, chosen: Candidate) -> bool:
        """Whether the shorter queues and the next smaller number of makers were tried, as far as there are any within the limits."""
        results = self.results
        shorter = [replace(chosen, prefetch=length) for length in self._shorter(chosen)]
        if any(not results.was_tried(candidate) and not results.limit(candidate) for candidate in shorter):
            return False
        base, below = self._bases.get(chosen.branch, chosen), chosen.makers - 1
        if below < self._least(chosen.branch) or below in self._counts(base):
            return True
        return bool(results.limit(self._with(base, below)))

    def untried(self) -> list[Branch]:
        """The branches that could have something cheaper and were neither tried nor excluded."""
        known = {tried.candidate.branch for tried in self.results.tried}
        known |= {excluded.candidate.branch for excluded in self.results.excluded}
        return [branch for branch in self.facts.branches if branch not in known and self._could_be_cheaper(branch)]

    # ---- the order of trials ----------------------------------------------------------------------------------------

    def trials(self) -> Trials:
        """The trials, one after the other; ends when nothing cheaper is left to try."""
        yield from self._first()
        if not self.results.found:
            return
        first = self.results.allowed[-1]
        base = self._improved(first.candidate, first.measured)
        if first.grade == FED:
            self.notes.append(
                f"the first trial, with {first.candidate.title}, was fed: only cheaper settings are looked for"
            )
        yield from self._in_branch(base)
        yield from self._other_branches(base)
        yield from self._other_start_method()

    def _first(self) -> Trials:
        """Tries the settings now; if they are beyond a limit or die, those with one maker, then none."""
        results, current, reason = self.results, self.facts.current, "the settings now"
        counts = [count for count in (1, 0) if self._least(current.branch) <= count < current.makers]
        for candidate in (current, *(self._with(current, count) for count in counts)):
            if why := results.limit(candidate):
                results.exclude(candidate, why)
            else:
                yield from self._try(candidate, reason, probes=True)
                if results.of(candidate) is not None and not results.limit(candidate):
                    return
            reason = (
                f"the settings now {'died' if any(tried.error for tried in results.tried) else 'are beyond a limit'}"
            )

    def more_trials(self) -> Trials:
        """The trials that are missing after the confirmation has corrected grades; ends when nothing cheaper is left to try."""
        current = self.facts.current
        base = self._keeping_workers(self._bases.get(current.branch, current))
        yield from self._in_branch(base)
        yield from self._other_branches(base)
        yield from self._other_start_method()

    def gaps_matter(self, chosen: Candidate) -> bool:
        """Whether the chosen settings lose time between epochs, and workers that stay alive or start faster could save it."""
        saves = chosen.persistent is False or self._could_fork(chosen)
        return saves and self.results.gap_pct(chosen) >= NOTICED_PCT

    def _other_branches(self, base: Candidate) -> Trials:
        """Looks for cheaper settings in the branches that are not the current one."""
        for branch in self.facts.branches:
            refused = any(entry.candidate == Candidate(branch) for entry in self.results.excluded)
            if branch == self.facts.current.branch or refused or not self._could_be_cheaper(branch):
                continue
            if not self._has_time():
                return
            if why := self._refuses(branch):
                self.results.excluded.append(Excluded(Candidate(branch), why))
                continue
            yield from self._in_branch(self._of_branch(branch, base))

    def _improved(self, current: Candidate, measured: Measured) -> Candidate:
        """The current settings with what costs nothing and may help: pinned memory, a side stream, persistent workers."""
        changed = current
        if self.facts.takes_copies and measured.delivery_pct >= NOTICED_PCT:
            if current.pin_memory is False:
                changed = replace(changed, pin_memory=True)
            if current.side_stream is False:
                changed = replace(changed, pin_memory=True, side_stream=True)
            if changed != current:
                self.notes.append(
                    f"copies to the device cost {measured.delivery_pct:.1f} % of the time: pinned memory is used"
                )
        return self._keeping_workers(changed)

    def _keeping_workers(self, base: Candidate) -> Candidate:
        """The settings with persistent workers, if they are off and the time between epochs matters, as far as it is known."""
        if base.persistent is not False or self.results.gap_pct(base) < NOTICED_PCT:
            return base
        self.notes.append("the time between epochs matters: workers are kept")
        return replace(base, persistent=True)

    def _of_branch(self, branch: Branch, base: Candidate) -> Candidate:
        """The settings of another branch with what it shares with the current one."""
        if branch.backend == RESIDENT:
            return Candidate(branch)
        native = branch.backend == NATIVE
        return Candidate(
            branch,
            max(1, base.makers),
            PREFETCH[branch.backend],
            pin_memory=base.pin_memory if branch.backend in (NATIVE, SPDL) else None,
            side_stream=base.side_stream if branch.backend in (NATIVE, SPDL) else None,
            persistent=base.persistent if native else None,
            start_method=base.start_method if native else None,
        )

    def _could_be_cheaper(self, branch: Branch) -> bool:
        """Whether a branch has a candidate that is cheaper than the cheapest one so far; all have, if none feeds the device."""
        best = self.results.cheapest_fed()
        if best is None:
            return True
        return best.candidate.makers > self._least(branch)

    def _in_branch(self, base: Candidate) -> Trials:
        """Looks for the cheapest candidate of one branch."""
        branch = base.branch
        self._bases[branch] = base
        if branch.backend == RESIDENT:
            yield from self._try(base, "no workers, and all samples stay on the device")
            return
        if branch != self.facts.current.branch:
            best = self.results.cheapest_fed()
            count = max(self._least(branch), best.candidate.makers - 1) if best else max(1, base.makers)
            kind = "cheaper than the settings that feed the device" if best else "another loader"
            yield from self._try(self._with(base, count), kind, probes=True)
            if best is not None and self._counts(base).get(count) != FED:
                return  # more of its makers would not be cheaper
        elif self.results.model.num_points(branch) < 2:
            second = 1 if base.makers != 1 else 2
            yield from self._try(
                self._with(base, second), "to predict the rate of other numbers of makers", probes=True
            )
        while True:
            yield from self._longer_queues(base)
            step = self._next_count(base)
            if step is None:
                num_tried = len(self.results.tried)
                yield from self._shorter_queues(branch)
                if len(self.results.tried) == num_tried:
                    return
                continue
            count, reason = step
            assert count not in self._counts(base), f"{count} was tried before"
            yield from self._try(self._with(base, count), reason, alone=True)
            if count not in self._counts(base):
                return  # beyond a limit

    def _longer_queues(self, base: Candidate) -> Trials:
        """Tries longer queues, which cost less than more makers, at the counts that were tried."""
        for count in sorted(self._counts(base)):
            best = self.results.cheapest_fed()
            if best is not None and count >= best.candidate.makers:
                return
            yield from self._longer_queues_at(base, count)

    def _shorter_queues(self, branch: Branch) -> Trials:
        """Tries the shorter queues of the cheapest settings, which may come from the settings now: they cost less."""
        best = self.results.cheapest_fed()
        if best is None or best.candidate.branch != branch or not best.candidate.makers:
            return
        for length in self._shorter(best.candidate):
            shorter = replace(best.candidate, prefetch=length)
            yield from self._try(shorter, "is a shorter queue enough?")
            if self.results.is_fed(shorter):
                return

    def _shorter(self, candidate: Candidate) -> list[int]:
        """The shorter queues with as many makers, the shortest first; none without makers."""
        if not candidate.makers:
            return []
        lengths = (PREFETCH[candidate.branch.backend], *LONGER_QUEUES)
        return [length for length in lengths if length < (candidate.prefetch or 0)]

    def _longer_queues_at(self, base: Candidate, count: int) -> Trials:
        """Tries longer queues if the loader is fast enough with this number of makers, and the step waits nevertheless."""
        found = self.results.of(self._with(base, count))
        if found is None or found.grade == FED or not count or not self._is_fast_enough(found):
            return
        if found.measured.starved_pct < NOTICED_PCT:
            return  # all of the time is lost between epochs
        for length in LONGER_QUEUES:
            longer = replace(found.candidate, prefetch=length)
            if length <= (found.candidate.prefetch or 0):
                continue
            yield from self._try(longer, "the loader is fast enough, but its batches come unevenly")
            if self.results.is_fed(longer):
                return

    def _is_fast_enough(self, found: Found) -> bool:
        """Whether the loader alone makes what the step takes. If no loader was measured alone: whether little is missing."""
        branch, makers = found.candidate.branch, found.candidate.makers
        made, demand = self.results.model.alone(branch, makers), self.results.model.demand(makers)
        if made is not None and demand is not None:
            return made >= ENOUGH * demand
        return not self.results.model.knows_alone and found.tried.lost_pct < LITTLE_PCT

    def _next_count(self, base: Candidate) -> tuple[int, str] | None:
        """The number of makers to try next and the reason; None if nothing is left to try."""
        counts, least = self._counts(base), self._least(base.branch)
        fed = [count for count, grade_ in counts.items() if grade_ == FED]
        predicted = self._predicted_count(base)
        if not fed:
            if predicted is not None and predicted not in counts:
                return predicted, "predicted to feed the device"
            return self._uphill(base, counts)
        smallest = min(fed)
        below = max((count for count in counts if count < smallest), default=least - 1)
        if smallest - below <= 1:
            return None
        if predicted is not None and below < predicted < smallest:
            return predicted, "predicted to be enough"
        middle = (below + smallest) // 2 if smallest - below > FEW else smallest - 1
        return middle, f"are fewer than the {smallest} that feed the device enough?"

    def _uphill(self, base: Candidate, counts: dict[int, str]) -> tuple[int, str] | None:
        """If no prediction holds: the next count in the direction in which the rate rises."""
        rates = self._rates(base.branch)
        if not rates:
            return None
        most = self._most(base)
        highest = max(rates.values())
        predictions = {
            count: predicted.rate
            for count in range(self._least(base.branch), most + 1)
            if (predicted := self.results.model.predict(self._with(base, count))) is not None
        }
        hopeful = [count for count, rate in predictions.items() if count not in counts and rate > GAIN * highest]
        if hopeful:
            top = max(predictions[count] for count in hopeful)
            return next(count for count in hopeful if predictions[count] >= 0.99 * top), "predicted to be the fastest"
        best = min(count for count, rate in rates.items() if rate * GAIN >= highest)
        slower = max((count for count in counts if count < best), default=best - 1)
        if best - slower > 1:
            return (slower + best) // 2, f"are fewer than {best} as fast?"
        for count in range(best + 1, min(best + EXAMINED, most) + 1):
            if count not in counts:
                return count, f"are more than {best} faster?"
        return None

    def _rates(self, branch: Branch) -> dict[int, float]:
        """The highest rate of each count of a branch."""
        rates: dict[int, float] = {}
        for found in self.results.found:
            if found.candidate.branch == branch:
                count = found.candidate.makers
                rates[count] = max(found.measured.rate, rates.get(count, 0.0))
        return rates

    def _predicted_count(self, base: Candidate) -> int | None:
        """The smallest number of makers that is predicted to feed the device, within the limits; None if none is."""
        for count in range(self._least(base.branch), self._most(base) + 1):
            predicted = self.results.model.predict(self._with(base, count))
            if predicted is None:
                return None
            if predicted.starved_pct < self.results.limit_pct:
                return count
        beyond = self._with(base, self._most(base) + 1)
        if self.results.of(beyond) is None:
            self.results.exclude(beyond, self.results.limit(beyond))
        return None

    def _other_start_method(self) -> Trials:
        """Tries forked workers if the time between epochs matters and workers are spawned."""
        best = self.results.cheapest_fed() or self.results.fastest()
        if best is None or not self._could_fork(best.candidate):
            return
        kept = replace(best.candidate, persistent=self._bases[best.candidate.branch].persistent)
        if self.results.gap_pct(kept) >= NOTICED_PCT:
            forked = replace(kept, start_method="fork")
            yield from self._try(forked, "workers start faster if they are forked")
            best = self.results.cheapest_fed()
            if best is not None and best.candidate == forked:  # fewer forked workers may be enough
                yield from self._in_branch(forked)

    def _could_fork(self, candidate: Candidate) -> bool:
        return candidate.start_method not in (None, "fork") and "fork" in self.facts.can_start

    # ---- one trial ---------------------------------------------------------------------------------------------------

    def _try(self, candidate: Candidate, reason: str, *, probes: bool = False, alone: bool = False) -> Trials:
        """One trial, unless it was made before or its candidate is beyond a limit."""
        if self.results.was_tried(candidate):
            return
        if candidate != self.facts.current and (why := self.results.limit(candidate)):
            self.results.exclude(candidate, why)
            return
        # once the time between epochs matters, trials contain the end of an epoch
        gaps = any(self.results.gap_pct(found.candidate) >= NOTICED_PCT for found in self.results.found)
        epoch_steps = self.results.short_epoch(candidate, WINDOW_S) if gaps else None
        trial = Trial(candidate, reason, WINDOW_S, probes=probes, alone=probes or alone, epoch_steps=epoch_steps)
        self.results.add(trial, (yield trial))

    def _most(self, base: Candidate) -> int:
        """The largest number of makers within the limits."""
        count = self._least(base.branch)
        while not self.results.limit(self._with(base, count + 1)):
            count += 1
        return count

    def _counts(self, base: Candidate) -> dict[int, str]:
        """The counts of a branch that were tried with the settings of ``base``, each with the best grade of its queue lengths."""
        counts: dict[int, str] = {}
        for tried in self.results.tried:
            candidate, found = tried.candidate, self.results.of(tried.candidate)
            if candidate.branch != base.branch:
                continue
            is_fed = found is not None and found.grade == FED
            if not is_fed and replace(self._with(base, candidate.makers), prefetch=candidate.prefetch) != candidate:
                continue  # with other settings it may feed the device
            grade_ = NOT_FED if found is None else found.grade
            counts[candidate.makers] = FED if FED in (grade_, counts.get(candidate.makers)) else grade_
        return counts

    def _least(self, branch: Branch) -> int:
        """The smallest number of makers of a branch."""
        return 1 if branch.backend in (SPDL, DALI) else 0

    def _with(self, base: Candidate, count: int) -> Candidate:
        """The candidate with another number of makers and the usual queue; a shorter one if there is no memory for that."""
        if not count:
            return replace(base, makers=0, prefetch=None, persistent=None, start_method=None)
        candidate = replace(base, makers=count, prefetch=PREFETCH[base.branch.backend])
        if base.branch.backend == NATIVE and not base.makers:
            candidate = replace(candidate, persistent=True)
        if self.results.limit(candidate) and not self.results.limit(replace(candidate, prefetch=1)):
            return replace(candidate, prefetch=1)
        return candidate
