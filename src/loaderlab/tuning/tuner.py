"""Runs the search and the confirmation with an engine: the time limit, the progress, Ctrl-C."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol

from loaderlab.config import UserError, refuse
from loaderlab.tuning.answer import NOT_FED, UNCONFIRMED, Answer
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.certificate import TIME_OVER, certificate, missing
from loaderlab.tuning.confirm import ROUNDS, WINDOW_S, Confirmation
from loaderlab.tuning.limits import Machine, most_workers
from loaderlab.tuning.lost import gap_share, lost
from loaderlab.tuning.results import Results
from loaderlab.tuning.search import NOTICED_PCT, Search, Trials
from loaderlab.tuning.trial import LEAST_STEPS, Engine, Facts, Measured, Trial, TrialFailed

ENDING_S = 2.0  # from the last step of a run to the next run
MARGIN = 1.1  # of the time kept for the confirmation: its runs may take longer than those from which it is estimated
LAST = 4  # settings by which the duration of a run with other ones is estimated
FIRST_TRIAL_S = 8.0  # estimate before any trial has ended
LEAST_TRIALS = 3  # of the search, before time is kept for a confirmation of settings that do not feed the device
MORE_TRIALS = 4  # of the search, that a longer time limit should allow
INTERRUPTED = "it was interrupted"
CURVE_BEYOND = 2  # counts of makers in the picture above those that were tried


class Watcher(Protocol):
    """Shows the progress."""

    def starts(self, trial: Trial, left_s: float) -> None:
        """A trial starts; ``left_s``: until the time limit."""

    def ended(self, trial: Trial, result: Measured | TrialFailed, lost_pct: float | None) -> None:
        """A trial has ended. ``lost_pct``: the share of the time for which the device was starved; None if the trial died."""

    def note(self, text: str) -> None:
        """The search has noticed something that the user should know: see `loaderlab.tuning.search.Search.notes`."""


@dataclass
class _Clock:
    """The time that is left, and the time that trials take."""

    now: Callable[[], float]
    deadline: float
    starts_s: float = 0.0
    has_run: bool = False
    # the durations of confirmation runs: estimated from the search's trials, then as they were
    _run_s: dict[Candidate, float] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        return self.deadline - self.now()

    def ran(self, trial: Trial, measured: Measured | None, total_s: float) -> None:
        """A trial has ended."""
        self.has_run = True
        start_s = 0.0 if measured is None else measured.start_s or 0.0
        self.starts_s += start_s
        if trial.round:
            self._run_s[trial.candidate] = total_s
            return
        if measured is None:
            return
        # a search trial has another window than a confirmation run, and probes
        steps = LEAST_STEPS + trial.candidate.batches_ahead + trial.candidate.makers
        self._run_s[trial.candidate] = start_s + max(WINDOW_S, steps * measured.step_ms / 1e3) + ENDING_S

    def run_s(self, candidate: Candidate | None = None) -> float:
        """The expected duration of a confirmation run; of settings that were not tried, that of the slowest of the last ones."""
        last = max([*self._run_s.values()][-LAST:], default=FIRST_TRIAL_S)
        return last if candidate is None else self._run_s.get(candidate, last)

    def all_s(self, candidates: Sequence[Candidate]) -> float:
        """The expected duration of one confirmation run of each of these."""
        return sum(self.run_s(candidate) for candidate in candidates)


def tune(
    engine: Engine,
    machine: Callable[[Facts], Machine],
    watcher: Watcher,
    *,
    minutes: float,
    limit_pct: float,
    now: Callable[[], float] = time.monotonic,
) -> Answer:
    """Looks for the cheapest settings that feed the device.

    Args:
        machine: gives the limits of this machine.
        minutes: for the search and the confirmation together. A running trial ends after it.
        limit_pct: the starved share below which the device is fed, percent.
        now: a clock, in seconds.

    Returns:
        The answer. After Ctrl-C, what is known by then.

    Raises:
        UserError: the settings now cannot be run at all, or nothing can be tuned.
        KeyboardInterrupt: before the first trial had ended.
    """
    began = now()
    clock = _Clock(now, began + 60 * minutes)
    facts = engine.facts()
    results = Results(facts, machine(facts), limit_pct)
    confirmation: Confirmation | None = None

    def reserve_s() -> float:
        return _reserve_s(search, clock) if confirmation is None else 0.0

    search = Search(results, engine.refuses, lambda: clock.left_s >= reserve_s() + clock.run_s())
    unfinished, searched = "", began
    try:
        finished = _run(engine, search.trials(), search, clock, watcher, reserve_s)
        _check_first(results)
        unfinished = "" if finished and not search.untried() else TIME_OVER
        searched = now()
        confirmation = Confirmation(search, lambda candidates: clock.left_s >= clock.all_s(candidates))
        _run(engine, confirmation.trials(), search, clock, watcher, reserve_s)
    except KeyboardInterrupt:
        if not results.found:
            raise
        unfinished = INTERRUPTED
        if confirmation is None:
            searched = now()
            confirmation = Confirmation(search, lambda _: False)
    return _answer(search, confirmation, unfinished, clock, began, searched)


def _run(
    engine: Engine, trials: Trials, search: Search, clock: _Clock, watcher: Watcher, reserve_s: Callable[[], float]
) -> bool:
    """Runs trials while there is time, except for ``reserve_s`` seconds. Returns whether all of them ran."""
    epoch_steps, num_shown = search.facts.epoch_steps, len(search.notes)
    trial = next(trials, None)
    while trial is not None:
        if clock.has_run and clock.left_s < reserve_s() + clock.run_s(trial.candidate):
            return False
        watcher.starts(trial, clock.left_s)
        began = clock.now()
        result: Measured | TrialFailed
        try:
            result = engine.run(trial)
        except TrialFailed as error:
            result = error
        clock.ran(trial, None if isinstance(result, TrialFailed) else result, clock.now() - began)
        watcher.ended(trial, result, None if isinstance(result, TrialFailed) else lost(result, epoch_steps)[0])
        try:
            trial = trials.send(result)
        except StopIteration:
            trial = None
        for text in search.notes[num_shown:]:
            watcher.note(text)
        num_shown = len(search.notes)
    return True


def _check_first(results: Results) -> None:
    """Raises:
    UserError: the first trials died, or the settings now and those with fewer makers are beyond a limit.
    """
    if results.found:
        return
    if not results.tried:
        current, most = results.facts.current, results.machine.max_makers
        assert most is not None, "no other limit excludes a single maker before it was tried"
        raise refuse("tune.max_makers", most, f"{current.branch.title} needs at least 1 thread", "tune.max_makers=1")
    first, *others = results.tried
    titles = " and ".join(tried.candidate.title for tried in others)
    also = f"; {titles} too" if others else ""
    if others and others[-1].error != first.error:
        also += f": {others[-1].error}"
    now = "the settings now" if first.candidate == results.facts.current else first.candidate.title
    raise UserError(f"nothing was tuned, because a run with {now} fails: {first.error}{also}")


def _reserve_s(search: Search, clock: _Clock) -> float:
    """Time that the confirmation will need."""
    if search.results.cheapest_fed() is None and len(search.results.tried) < LEAST_TRIALS:
        return 0.0  # there is nothing yet that is worth a confirmation
    settings = Confirmation(search, lambda _: False).settings
    return MARGIN * ROUNDS * clock.all_s(settings)


def _answer(
    search: Search, confirmation: Confirmation, unfinished: str, clock: _Clock, began: float, searched: float
) -> Answer:
    results, facts = search.results, search.facts
    grade, sentence = certificate(search, confirmation, unfinished)
    notes = [*search.notes, *confirmation.errors]
    if grade == UNCONFIRMED and unfinished != INTERRUPTED and not confirmation.errors:
        seconds = searched - began + MARGIN * ROUNDS * clock.all_s(confirmation.settings) + MORE_TRIALS * clock.run_s()
        minutes = math.ceil(2 * seconds / 60) / 2
        notes.append(f"about {minutes:g} minute{'s' * (minutes != 1)} would be enough to confirm the answer")
    if why := results.why_not_current:
        name = "confirmed" if results.was_tried(facts.current) else "run"
        notes.append(f"the settings now, {facts.current.title}, were not {name}, because of a limit: {why}")
    if (gaps := _gaps(facts, confirmation)) >= NOTICED_PCT:
        steps = facts.epoch_steps
        notes.append(f"{gaps:.1f} % of the time is lost between epochs of {steps} steps, with the chosen settings")
    notes += [f"{branch.title} was not tried, because {unfinished or TIME_OVER}" for branch in search.untried()]
    fastest, most = results.fastest(), max(tried.candidate.makers for tried in results.tried) + CURVE_BEYOND
    branches = list(dict.fromkeys(found.candidate.branch for found in results.found))
    return Answer(
        grade=grade,
        facts=facts,
        max_starved_pct=results.limit_pct,
        chosen=confirmation.chosen,
        neighbour=confirmation.neighbour,
        fastest=None if fastest is None else fastest.candidate,
        tried=tuple(results.tried),
        excluded=tuple(results.excluded),
        confirmed=confirmation.confirmed,
        certificate=sentence,
        missing=missing(results) if grade == NOT_FED else "",
        notes=tuple(notes),
        search_s=searched - began,
        confirm_s=clock.now() - searched,
        starts_s=clock.starts_s,
        interrupted=unfinished == INTERRUPTED,
        supply={branch.title: tuple(results.model.supply_curve(branch, most)) for branch in branches},
        demand=tuple(results.model.demand_curve(most)),
        memory_limit_makers=most_workers(results.machine, results.needs),
    )


def _gaps(facts: Facts, confirmation: Confirmation) -> float:
    """Mean share of the time that the chosen settings lose between epochs, percent."""
    confirmed = confirmation.confirmed.get(confirmation.chosen)
    runs = confirmed.runs if confirmed is not None else []
    return 100 * fmean(gap_share(run, facts.epoch_steps) for run in runs) if runs else 0.0
