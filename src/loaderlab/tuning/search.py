"""Which candidate is tried next, and why: the search for the cheapest settings that feed the device. Pure.

It follows a prediction, so that it needs few trials, and believes only measurements: predicted settings are tried, and so are the
next cheaper ones, until these do not feed the device.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from loaderlab.tuning.answer import Excluded, Tried
from loaderlab.tuning.candidate import DALI, NATIVE, RESIDENT, SPDL, Branch, Candidate, cost
from loaderlab.tuning.limits import Machine, Needs, limit
from loaderlab.tuning.lost import FED, NOT_FED, gap_share, grade, lost
from loaderlab.tuning.prediction import Model
from loaderlab.tuning.trial import Facts, Measured, Trial, TrialFailed

WINDOW_S = 2.0  # measured window of a trial
PREFETCH = {NATIVE: 2, SPDL: 3, DALI: 2, "own": 2}  # batches queued ahead, unless waits jitter
LONGER_QUEUES = (4, 8)
ENOUGH = 0.98  # supply / demand from which the loader is fast enough, and its waits are jitter
EQUAL_CPU = 1.1  # CPU time per sample / CPU time per sample up to which one run each shows no difference
GAIN = 1.03  # rate / rate from which one setting is faster than another
NOTICED_PCT = 1.0  # a smaller share of the time is not worth a change of settings
LITTLE_PCT = 20.0  # starved share up to which a longer queue may be enough
FEW = 2  # counts that are tried one after the other instead of halving their range
EXAMINED = 2  # counts beyond the fastest one that are tried before more makers are given up

Refuses = Callable[[Branch], str]
Sending = Measured | TrialFailed
Trials = Generator[Trial, Sending, None]


@dataclass(frozen=True)
class Found:
    """A trial with its grade."""

    tried: Tried
    measured: Measured
    grade: str

    @property
    def candidate(self) -> Candidate:
        return self.tried.candidate


class Search:
    """One search. Use: ``trials = search.trials(); trial = next(trials)``, then ``trials.send(measured)`` for the next one.

    Args:
        facts: what the engine knows.
        machine: its limits.
        limit_pct: the starved share below which the device is fed, percent.
        refuses: says why a branch cannot be used, empty if it can; is called only before its first trial.
    """

    def __init__(self, facts: Facts, machine: Machine, limit_pct: float, refuses: Refuses) -> None:
        self.facts, self.machine, self.limit_pct = facts, machine, limit_pct
        self.model = Model(facts, machine.cores)
        self.tried: list[Tried] = []
        self.excluded: list[Excluded] = []
        self.notes: list[str] = []
        self._found: dict[Candidate, Found] = {}
        self._bases: dict[Branch, Candidate] = {}  # the settings that all counts of a branch have in common
        self._died: dict[Branch, tuple[Candidate, str]] = {}  # the cheapest settings whose trial died, and how
        self._refuses = refuses
        self._needs = Needs(batch_bytes=facts.batch_bytes, samples_bytes=facts.samples_bytes)

    # ---- results ---------------------------------------------------------------------------------------------------

    @property
    def found(self) -> list[Found]:
        """The trials with a result, in order."""
        return list(self._found.values())

    @property
    def _allowed(self) -> list[Found]:
        """Those within the limits, which the settings now may exceed; all of them if none is within them."""
        return [found for found in self.found if not self._limit(found.candidate)] or self.found

    @property
    def why_not_current(self) -> str:
        """Why the settings now are beyond the limits; empty if they are not."""
        return self._limit(self.facts.current)

    @property
    def needs(self) -> Needs:
        """What the native loader needs, as measured so far."""
        return self._needs

    def price(self, candidate: Candidate) -> tuple[int, int]:
        """Makers, then bytes queued ahead."""
        return cost(candidate, self.facts.batch_bytes or 1, self.facts.samples_bytes or 1)

    def cheapest_fed(self) -> Found | None:
        """The cheapest candidate that feeds the device by its own trial. With equal makers and bytes: the one that needs clearly
        less CPU time, otherwise the one that is more like the current settings."""
        fed = [found for found in self._allowed if found.grade == FED]
        return self._cheapest(fed)

    def neighbour(self, chosen: Candidate) -> Found | None:
        """Of the cheaper settings that were tried, those that came closest to feeding the device; of those that came about equally
        close, the costliest."""
        cheaper = [found for found in self._allowed if self.price(found.candidate) < self.price(chosen)]
        best = max((found.measured.rate for found in cheaper), default=0.0)
        close = [found for found in cheaper if found.measured.rate * GAIN >= best]
        return max(close, key=lambda found: self.price(found.candidate), default=None)

    def all_below_tried(self, chosen: Candidate) -> bool:
        """Whether the shorter queues and the next smaller number of makers were tried, as far as there are any within the limits."""
        known = {tried.candidate for tried in self.tried}
        shorter = [replace(chosen, prefetch=length) for length in self._shorter(chosen)]
        if any(candidate not in known and not self._limit(candidate) for candidate in shorter):
            return False
        base, below = self._bases.get(chosen.branch, chosen), chosen.makers - 1
        if below < self._least(chosen.branch) or below in self._counts(base):
            return True
        return bool(self._limit(self._with(base, below)))

    def untried(self) -> list[Branch]:
        """The branches that could have something cheaper and were neither tried nor excluded."""
        known = {entry.candidate.branch for entry in self.tried} | {entry.candidate.branch for entry in self.excluded}
        return [branch for branch in self.facts.branches if branch not in known and self._could_be_cheaper(branch)]

    def correct(self, grades: Mapping[Candidate, str], rates: Mapping[Candidate, float]) -> bool:
        """Replaces the grades of candidates by those of the confirmation, which are based on more runs, and the rates of those that
        contradict the search: they feed the device, and did not in the search, or the reverse. Returns whether there are any."""
        contradicted = False
        for candidate, grade_ in grades.items():
            before = self._found[candidate]
            measured = before.measured
            if (grade_ == FED) != (before.grade == FED):
                contradicted = True
                measured = replace(measured, rate=rates.get(candidate, measured.rate))
            self._found[candidate] = replace(before, measured=measured, grade=grade_)
        return contradicted

    def fastest(self) -> Found | None:
        """The settings with the highest rate; of those that are about as fast, the cheapest."""
        best = max((found.measured.rate for found in self._allowed), default=0.0)
        about = [found for found in self._allowed if found.measured.rate * GAIN >= best]
        return self._cheapest(about)

    def _cheapest(self, found: Sequence[Found]) -> Found | None:
        """The cheapest of some settings; None if there are none."""
        least = min((self.price(one.candidate) for one in found), default=None)
        equal = [one for one in found if self.price(one.candidate) == least]
        cpu_s = min((one.measured.cpu_s_per_sample or 0.0 for one in equal), default=0.0)
        equal = [one for one in equal if (one.measured.cpu_s_per_sample or 0.0) <= EQUAL_CPU * cpu_s]
        return min(equal, key=lambda one: one.candidate.branch != self.facts.current.branch, default=None)

    # ---- the order of trials ----------------------------------------------------------------------------------------

    def trials(self) -> Trials:
        """The trials, one after the other; ends when nothing cheaper is left to try."""
        yield from self._first()
        if not self._found:
            return
        first = self._allowed[-1]
        base = self._improved(first.candidate, first.measured)
        if first.grade == FED:
            self.notes.append(
                f"the first trial, with {first.candidate.title}, was fed: only cheaper settings were looked for"
            )
        yield from self._in_branch(base)
        yield from self._other_branches(base)
        yield from self._other_start_method()

    def _first(self) -> Trials:
        """Tries the settings now; if they are beyond a limit or die, those with one maker, then none."""
        current, reason = self.facts.current, "the settings now"
        counts = [count for count in (1, 0) if self._least(current.branch) <= count < current.makers]
        for candidate in (current, *(self._with(current, count) for count in counts)):
            if why := self._limit(candidate):
                self._exclude(candidate, why)
            else:
                yield from self._try(candidate, reason, probes=True)
                if candidate in self._found and not self._limit(candidate):
                    return
            reason = f"the settings now {'died' if self._died else 'are beyond a limit'}"

    def more_trials(self) -> Trials:
        """The trials that are missing after the confirmation has corrected grades; ends when nothing cheaper is left to try."""
        current = self.facts.current
        base = self._bases.get(current.branch, current)
        yield from self._in_branch(base)
        yield from self._other_branches(base)

    def _other_branches(self, base: Candidate) -> Trials:
        """Looks for cheaper settings in the branches that are not the current one."""
        for branch in self.facts.branches:
            refused = any(entry.candidate == Candidate(branch) for entry in self.excluded)
            if branch == self.facts.current.branch or refused or not self._could_be_cheaper(branch):
                continue
            if why := self._refuses(branch):
                self.excluded.append(Excluded(Candidate(branch), why))
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
        if current.persistent is False and 100 * gap_share(measured, self.facts.epoch_steps) >= NOTICED_PCT:
            changed = replace(changed, persistent=True)
            self.notes.append("the time between epochs matters: workers are kept")
        return changed

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
        best = self.cheapest_fed()
        if best is None:
            return True
        return best.candidate.makers > self._least(branch)

    def _in_branch(self, base: Candidate) -> Trials:
        """Looks for the cheapest candidate of one branch."""
        branch = base.branch
        self._bases[branch] = base
        if branch.backend == RESIDENT:
            alone = self.model.supply(self.facts.current.branch, 1)
            samples = (self.facts.epoch_steps or 0) * self.facts.batch_size
            self._needs = replace(self._needs, loading_s=samples / alone if alone and samples else None)
            yield from self._try(base, "no workers, and all samples stay on the device")
            return
        if branch != self.facts.current.branch:
            best = self.cheapest_fed()
            count = max(self._least(branch), best.candidate.makers - 1) if best else max(1, base.makers)
            kind = "cheaper than the settings that feed the device" if best else "another loader"
            yield from self._try(self._with(base, count), kind, probes=True)
            if best is not None and self._counts(base).get(count) != FED:
                return  # more of its makers would not be cheaper
        elif self.model.num_points(branch) < 2:
            second = 1 if base.makers != 1 else 2
            yield from self._try(
                self._with(base, second), "to predict the rate of other numbers of makers", probes=True
            )
        while True:
            yield from self._longer_queues(base)
            step = self._next_count(base)
            if step is None:
                num_tried = len(self.tried)
                yield from self._shorter_queues(branch)
                if len(self.tried) == num_tried:
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
            best = self.cheapest_fed()
            if best is not None and count >= best.candidate.makers:
                return
            yield from self._longer_queues_at(base, count)

    def _shorter_queues(self, branch: Branch) -> Trials:
        """Tries the shorter queues of the cheapest settings, which may come from the settings now: they cost less."""
        best = self.cheapest_fed()
        if best is None or best.candidate.branch != branch or not best.candidate.makers:
            return
        for length in self._shorter(best.candidate):
            shorter = replace(best.candidate, prefetch=length)
            yield from self._try(shorter, "is a shorter queue enough?")
            if shorter in self._found and self._found[shorter].grade == FED:
                return

    def _shorter(self, candidate: Candidate) -> list[int]:
        """The shorter queues with as many makers, the shortest first; none without makers."""
        if not candidate.makers:
            return []
        lengths = (PREFETCH[candidate.branch.backend], *LONGER_QUEUES)
        return [length for length in lengths if length < (candidate.prefetch or 0)]

    def _longer_queues_at(self, base: Candidate, count: int) -> Trials:
        """Tries longer queues if the loader is fast enough with this number of makers, and the step waits nevertheless."""
        found = self._found.get(self._with(base, count))
        if found is None or found.grade == FED or not count or not self._is_fast_enough(found):
            return
        for length in LONGER_QUEUES:
            longer = replace(found.candidate, prefetch=length)
            if length <= (found.candidate.prefetch or 0):
                continue
            yield from self._try(longer, "the loader is fast enough, but its batches come unevenly")
            if longer in self._found and self._found[longer].grade == FED:
                return

    def _is_fast_enough(self, found: Found) -> bool:
        """Whether the loader alone makes what the step takes. If no loader was measured alone: whether little is missing."""
        branch, makers = found.candidate.branch, found.candidate.makers
        made, demand = self.model.alone(branch, makers), self.model.demand(makers)
        if made is not None and demand is not None:
            return made >= ENOUGH * demand
        return not self.model.knows_alone and found.tried.lost_pct < LITTLE_PCT

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
        rates = self._rates(base)
        if not rates:
            return None
        most = self._most(base)
        highest = max(rates.values())
        predictions = {
            count: predicted.rate
            for count in range(self._least(base.branch), most + 1)
            if (predicted := self.model.predict(self._with(base, count))) is not None
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

    def _rates(self, base: Candidate) -> dict[int, float]:
        """The highest rate of each count of a branch."""
        rates: dict[int, float] = {}
        for found in self.found:
            if found.candidate.branch == base.branch:
                count = found.candidate.makers
                rates[count] = max(found.measured.rate, rates.get(count, 0.0))
        return rates

    def _predicted_count(self, base: Candidate) -> int | None:
        """The smallest number of makers that is predicted to feed the device, within the limits; None if none is."""
        for count in range(self._least(base.branch), self._most(base) + 1):
            predicted = self.model.predict(self._with(base, count))
            if predicted is None:
                return None
            if predicted.starved_pct < self.limit_pct:
                return count
        beyond = self._with(base, self._most(base) + 1)
        if beyond not in self._found:
            self._exclude(beyond, self._limit(beyond))
        return None

    def _other_start_method(self) -> Trials:
        """Tries forked workers if the time between epochs matters and workers are spawned."""
        best = self.cheapest_fed() or self.fastest()
        if best is None or best.candidate.start_method in (None, "fork") or "fork" not in self.facts.can_start:
            return
        if 100 * gap_share(best.measured, self.facts.epoch_steps) >= NOTICED_PCT:
            forked = replace(best.candidate, start_method="fork")
            yield from self._try(forked, "workers start faster if they are forked")
            best = self.cheapest_fed()
            if best is not None and best.candidate == forked:  # fewer forked workers may be enough
                yield from self._in_branch(forked)

    # ---- one trial ---------------------------------------------------------------------------------------------------

    def _try(self, candidate: Candidate, reason: str, *, probes: bool = False, alone: bool = False) -> Trials:
        """One trial, unless it was made before or its candidate is beyond a limit."""
        if any(tried.candidate == candidate for tried in self.tried):
            return
        if candidate != self.facts.current and (why := self._limit(candidate)):
            self._exclude(candidate, why)
            return
        predicted = self.model.predict(candidate)
        result = yield Trial(candidate, reason, WINDOW_S, probes=probes, alone=probes or alone)
        if isinstance(result, TrialFailed):
            self.tried.append(Tried(candidate, reason, predicted, None, error=str(result)))
            died = self._died.get(candidate.branch)
            if candidate.makers and (died is None or self.price(candidate) < self.price(died[0])):
                self._died[candidate.branch] = candidate, str(result)
            return
        share, interval = lost(result, self.facts.epoch_steps)
        tried = Tried(candidate, reason, predicted, result, lost_pct=share, lost_interval=interval)
        self.tried.append(tried)
        self._found[candidate] = Found(tried, result, grade(interval, self.limit_pct))
        self._learn(candidate, result)

    def _learn(self, candidate: Candidate, measured: Measured) -> None:
        self.model.learn(candidate, measured)
        if measured.worker_mib is not None and (candidate.makers == 1 or self._needs.worker_bytes is None):
            self._needs = replace(self._needs, worker_bytes=measured.worker_mib * 2**20)
        workers_mib = candidate.makers * measured.worker_mib if measured.worker_mib is not None else None
        if measured.host_mib is not None and (workers_mib is not None or not candidate.makers):
            process = max(0.0, measured.host_mib - (workers_mib or 0.0)) * 2**20
            least = process if self._needs.process_bytes is None else min(process, self._needs.process_bytes)
            self._needs = replace(self._needs, process_bytes=least)  # queued batches count in some processes twice

    def _limit(self, candidate: Candidate) -> str:
        died = self._died.get(candidate.branch)
        if died is not None and candidate not in self._found and self._would_die(candidate, died[0]):
            return f"a trial with {died[0].title} died: {died[1]}"
        needs = replace(self._needs, cores_per_maker=self.model.cores_per_maker(candidate.branch))
        return limit(candidate, self.machine, needs)

    def _would_die(self, candidate: Candidate, died: Candidate) -> bool:
        """Whether a candidate needs at least as much as one that died: as many makers and as long a queue, or more makers, unless as
        many as those that died were measured with another queue."""
        if candidate.makers == died.makers:
            return (candidate.prefetch or 0) >= (died.prefetch or 0)
        same_branch = [found.candidate.makers for found in self.found if found.candidate.branch == died.branch]
        return candidate.makers > died.makers > max(same_branch, default=0)

    def _exclude(self, candidate: Candidate, why: str) -> None:
        """Records the limit of a branch; an earlier one was estimated from less. That of the settings now is kept."""
        current = self.facts.current
        self.excluded = [
            entry for entry in self.excluded if entry.candidate.branch != candidate.branch or entry.candidate == current
        ]
        self.excluded.append(Excluded(candidate, why))

    def _most(self, base: Candidate) -> int:
        """The largest number of makers within the limits."""
        count = self._least(base.branch)
        while not self._limit(self._with(base, count + 1)):
            count += 1
        return count

    def _counts(self, base: Candidate) -> dict[int, str]:
        """The counts of a branch that were tried with the settings of ``base``, each with the best grade of its queue lengths."""
        counts: dict[int, str] = {}
        for tried in self.tried:
            candidate, found = tried.candidate, self._found.get(tried.candidate)
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
        if self._limit(candidate) and not self._limit(replace(candidate, prefetch=1)):
            return replace(candidate, prefetch=1)
        return candidate
