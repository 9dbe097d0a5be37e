"""What the trials of a search have shown: their grades, the cheapest and the fastest settings, and the limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from loaderlab.tuning.answer import Confirmed, Excluded, Tried
from loaderlab.tuning.candidate import Branch, Candidate, cost
from loaderlab.tuning.limits import Machine, Needs, limit
from loaderlab.tuning.lost import FED, gap_share, grade, lost
from loaderlab.tuning.prediction import Model
from loaderlab.tuning.trial import LEAST_STEPS, Facts, Measured, Trial, TrialFailed

EQUAL_CPU = 1.1  # CPU time per sample / CPU time per sample up to which one run each shows no difference
GAIN = 1.03  # rate / rate from which one setting is faster than another


@dataclass(frozen=True)
class Found:
    """A trial with its grade."""

    tried: Tried
    measured: Measured
    grade: str

    @property
    def candidate(self) -> Candidate:
        return self.tried.candidate


class Results:
    """The trials so far, and what follows from them.

    Args:
        facts: what the engine knows.
        machine: its limits.
        limit_pct: the starved share below which the device is fed, percent.

    Attributes:
        model: predicts what was not tried.
        tried: all trials, in order.
        excluded: settings beyond a limit, with the reason.
        needs: of the native loader, as measured so far.
    """

    def __init__(self, facts: Facts, machine: Machine, limit_pct: float) -> None:
        self.facts, self.machine, self.limit_pct = facts, machine, limit_pct
        self.model = Model(facts, machine.cores)
        self.tried: list[Tried] = []
        self.excluded: list[Excluded] = []
        self.needs = Needs(batch_bytes=facts.batch_bytes, samples_bytes=facts.samples_bytes)
        self._found: dict[Candidate, Found] = {}

    def add(self, trial: Trial, result: Measured | TrialFailed) -> None:
        """A trial has ended."""
        candidate, predicted = trial.candidate, self.model.predict(trial.candidate)
        if isinstance(result, TrialFailed):
            self.tried.append(Tried(candidate, trial.reason, predicted, None, error=str(result)))
            return
        share, interval = lost(result, self.facts.epoch_steps)
        tried = Tried(candidate, trial.reason, predicted, result, lost_pct=share, lost_interval=interval)
        self.tried.append(tried)
        self._found[candidate] = Found(tried, result, grade(interval, self.limit_pct))
        self.model.learn(candidate, result)
        self._learn_needs(candidate, result)

    def correct(self, grades: Mapping[Candidate, str], confirmed: Mapping[Candidate, Confirmed]) -> bool:
        """Replaces the grades of candidates by those of the confirmation, which are based on more runs, the time between epochs by
        theirs, which contain the end of one, and the rates and starved shares of those that contradict the search: they feed the
        device, and did not in the search, or the reverse. Returns whether there are any."""
        contradicted = False
        for candidate, grade_ in grades.items():
            before = self._found[candidate]
            measured = before.measured
            runs = confirmed[candidate].runs if candidate in confirmed else ()
            gaps = [run.gap_ms for run in runs if run.gap_ms is not None]
            if gaps:
                measured = replace(measured, gap_ms=fmean(gaps))
            if (grade_ == FED) != (before.grade == FED):
                contradicted = True
                if runs:
                    starved_pct = fmean(run.starved_pct for run in runs)
                    measured = replace(measured, rate=confirmed[candidate].rate, starved_pct=starved_pct)
            self._found[candidate] = replace(before, measured=measured, grade=grade_)
        return contradicted

    # ---- the settings that matter ----------------------------------------------------------------------------------

    @property
    def found(self) -> list[Found]:
        """The trials with a result, in order."""
        return list(self._found.values())

    @property
    def allowed(self) -> list[Found]:
        """Those within the limits, which the settings now may exceed; all of them if none is within them."""
        return [found for found in self.found if not self.limit(found.candidate)] or self.found

    def of(self, candidate: Candidate) -> Found | None:
        """The result of a candidate; None if it was not tried or its trial died."""
        return self._found.get(candidate)

    def is_fed(self, candidate: Candidate) -> bool:
        """Whether a trial has shown that a candidate feeds the device."""
        found = self.of(candidate)
        return found is not None and found.grade == FED

    def was_tried(self, candidate: Candidate) -> bool:
        """Whether there was a trial of a candidate, also one that died."""
        return any(tried.candidate == candidate for tried in self.tried)

    def price(self, candidate: Candidate) -> tuple[int, int]:
        """Makers, then bytes queued ahead."""
        return cost(candidate, self.facts.batch_bytes or 1, self.facts.samples_bytes or 1)

    def cheapest_fed(self) -> Found | None:
        """The cheapest candidate that feeds the device by its own trial. With equal makers and bytes: the one that needs clearly
        less CPU time, otherwise the one that is more like the current settings."""
        return self._cheapest([found for found in self.allowed if found.grade == FED])

    def fastest(self) -> Found | None:
        """The settings with the highest rate; of those that are about as fast, the cheapest."""
        best = max((self._whole_rate(found) for found in self.allowed), default=0.0)
        return self._cheapest([found for found in self.allowed if self._whole_rate(found) * GAIN >= best])

    def neighbour(self, chosen: Candidate) -> Found | None:
        """Of the cheaper settings that were tried, those that came closest to feeding the device; of those that came about equally
        close, the costliest."""
        cheaper = [found for found in self.allowed if self.price(found.candidate) < self.price(chosen)]
        best = max((self._whole_rate(found) for found in cheaper), default=0.0)
        close = [found for found in cheaper if self._whole_rate(found) * GAIN >= best]
        return max(close, key=lambda found: self.price(found.candidate), default=None)

    def _cheapest(self, found: Sequence[Found]) -> Found | None:
        """The cheapest of some settings; None if there are none."""
        least = min((self.price(one.candidate) for one in found), default=None)
        equal = [one for one in found if self.price(one.candidate) == least]
        cpu_s = min((one.measured.cpu_s_per_sample or 0.0 for one in equal), default=0.0)
        equal = [one for one in equal if (one.measured.cpu_s_per_sample or 0.0) <= EQUAL_CPU * cpu_s]
        return min(equal, key=lambda one: one.candidate.branch != self.facts.current.branch, default=None)

    # ---- the time between epochs -----------------------------------------------------------------------------------

    def gap_pct(self, candidate: Candidate) -> float:
        """The largest share of the time that was lost between epochs with workers that start as those of a candidate, percent; 0 if no
        trial with them contained the end of an epoch."""
        shares = [
            100 * gap_share(found.measured, self.facts.epoch_steps)
            for found in self.found
            if _start(found.candidate) == _start(candidate)
        ]
        return max(shares, default=0.0)

    def _whole_rate(self, found: Found) -> float:
        """Samples/s over whole epochs, with the time that is lost between them, as far as it is known."""
        return found.measured.rate * (1 - self.gap_pct(found.candidate) / 100)

    def short_epoch(self, candidate: Candidate, window_s: float) -> int | None:
        """The steps of an epoch, so that the end of one is in the middle of the window; None if an epoch is short enough."""
        whole, known = self.facts.epoch_steps, self.of(candidate) or self.fastest()
        if whole is None or known is None:
            return None
        steps = max(LEAST_STEPS, round(1e3 * window_s / 2 / known.measured.step_ms))
        steps += candidate.batches_ahead + candidate.makers
        return steps if steps < whole else None

    # ---- limits ----------------------------------------------------------------------------------------------------

    def limit(self, candidate: Candidate) -> str:
        """Why a candidate must not be tried; empty if it may."""
        if candidate not in self._found:
            for died in self.tried:
                if died.error and (candidate == died.candidate or self._would_die(candidate, died.candidate)):
                    return f"a trial with {died.candidate.title} died: {died.error}"
        cores = self.model.cores_per_maker(candidate.branch)
        return limit(candidate, self.machine, replace(self.needs, cores_per_maker=cores, loading_s=self._loading_s))

    @property
    def why_not_current(self) -> str:
        """Why the settings now are beyond the limits; empty if they are not."""
        return self.limit(self.facts.current)

    def exclude(self, candidate: Candidate, why: str) -> None:
        """Records the limit of a branch; an earlier one was estimated from less. That of the settings now is kept."""
        current = self.facts.current
        self.excluded = [
            entry for entry in self.excluded if entry.candidate.branch != candidate.branch or entry.candidate == current
        ]
        self.excluded.append(Excluded(candidate, why))

    @property
    def _loading_s(self) -> float | None:
        """Time to load all samples with one maker, for settings that keep them on the device; None if it is not known."""
        alone = self.model.supply(self.facts.current.branch, 1)
        samples = (self.facts.epoch_steps or 0) * self.facts.batch_size
        return samples / alone if alone and samples else None

    def _would_die(self, candidate: Candidate, died: Candidate) -> bool:
        """Whether a candidate needs at least as much as one that died: as many makers and as long a queue, or more makers, unless as
        many as those that died were measured with another queue."""
        if candidate.branch != died.branch:
            return False
        if candidate.makers == died.makers:
            return (candidate.prefetch or 0) >= (died.prefetch or 0)
        same_branch = [found.candidate.makers for found in self.found if found.candidate.branch == died.branch]
        return candidate.makers > died.makers > max(same_branch, default=0)

    def _learn_needs(self, candidate: Candidate, measured: Measured) -> None:
        if measured.worker_mib is not None and (candidate.makers == 1 or self.needs.worker_bytes is None):
            self.needs = replace(self.needs, worker_bytes=measured.worker_mib * 2**20)
        workers_mib = candidate.makers * measured.worker_mib if measured.worker_mib is not None else None
        if measured.host_mib is not None and (workers_mib is not None or not candidate.makers):
            process = max(0.0, measured.host_mib - (workers_mib or 0.0)) * 2**20
            least = process if self.needs.process_bytes is None else min(process, self.needs.process_bytes)
            self.needs = replace(self.needs, process_bytes=least)  # queued batches count in some processes twice


def _start(candidate: Candidate) -> tuple[Branch, bool | None, str | None]:
    """The settings by which workers start."""
    return candidate.branch, candidate.persistent, candidate.start_method
