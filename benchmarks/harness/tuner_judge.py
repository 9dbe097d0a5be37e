"""Compares an answer of the tuner with what is true of a planted case. Pure.

The answer is that of ``tune.json``: `loaderlab.tuning.answer.Answer` as JSON.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.tuner_cases import DEEP, MAX_STARVED_PCT, TunerCase
from benchmarks.harness.tuner_runs import Mean, PlainRun, Setting, by_setting, starved_of
from loaderlab.tuning.answer import CERTIFIED, NOT_FED, NOT_SEPARABLE

Answer = Mapping[str, Any]
FED, STARVED, OPEN = "fed", "starved", "open"  # of settings, by the interval over their runs


@dataclass(frozen=True)
class Judgement:
    """What is wrong with an answer; empty texts if nothing is.

    Attributes:
        choice: the chosen settings are not the cheapest that feed the device, or not the fastest if nothing does.
        limits: settings beyond a limit were tried, also if they are the current ones.
        certificate: the certificate, or "not separable".
    """

    choice: str = ""
    limits: str = ""
    certificate: str = ""

    @property
    def is_right(self) -> bool:
        return not (self.choice or self.limits or self.certificate)

    @property
    def problems(self) -> str:
        """All that is wrong, in one line."""
        return "; ".join(filter(None, (self.choice, self.limits, self.certificate)))


def setting_of(candidate: Mapping[str, Any] | None) -> Setting | None:
    """The workers and the prefetch of a candidate in the answer; None if there is none."""
    if candidate is None:
        return None
    return candidate["makers"], (candidate["prefetch"] or DEEP[0]) if candidate["makers"] else 0


def truth_of(case: TunerCase) -> Setting | None:
    """The cheapest settings that feed the device; None if nothing does."""
    if case.makers is None:
        return None
    return case.makers, case.prefetch if case.makers else 0


def judge(case: TunerCase, answer: Answer, runs: Sequence[PlainRun] = ()) -> Judgement:
    """What is wrong with an answer.

    Args:
        runs: plain runs of this case, with which the certificate is compared; without any, it is compared with the planted truth.
    """
    return Judgement(_choice(case, answer), _limits(case, answer), _certificate(case, answer, by_setting(runs)))


def state(starved: Mean) -> str:
    """Whether settings with this starved share feed the device, by interval; OPEN without an interval or if it contains the limit."""
    if starved.interval is None:
        return OPEN
    low, high = starved.interval
    return FED if high < MAX_STARVED_PCT else STARVED if low >= MAX_STARVED_PCT else OPEN


def states(runs: Iterable[PlainRun]) -> dict[Setting, str]:
    """Whether each of the settings feeds the device."""
    return {setting: state(starved_of(group)) for setting, group in by_setting(runs).items()}


def confirmed_of(answer: Answer) -> list[Mapping[str, Any]]:
    """The confirmed candidates, each with its runs. JSON has no keys that are objects, so they are a list or the values."""
    confirmed = answer["confirmed"]
    return list(confirmed.values()) if isinstance(confirmed, Mapping) else list(confirmed)


def prediction_errors(answer: Answer) -> list[float]:
    """|predicted / confirmed rate - 1| in percent, for each confirmed candidate that had a prediction in the search."""
    confirmed = {_key(entry["candidate"]): entry["rate"] for entry in confirmed_of(answer)}
    expected = {_key(tried["candidate"]): tried["predicted"] for tried in answer["tried"] if tried["predicted"]}
    pairs = [(expected[key]["rate"], rate) for key, rate in confirmed.items() if key in expected]
    return [
        100 * abs(predicted / rate - 1) for predicted, rate in pairs if predicted is not None and rate
    ]  # null: not finite


def median_error(answers: Iterable[Answer]) -> Mean:
    """The median of all errors of a prediction, percent, with the smallest and the largest as its range."""
    errors = [error for answer in answers for error in prediction_errors(answer)]
    if not errors:
        return Mean(float("nan"), None, 0)
    return Mean(statistics.median(errors), (min(errors), max(errors)), len(errors))


def _key(candidate: Mapping[str, Any]) -> str:
    return repr(sorted(candidate.items(), key=lambda item: item[0]))


def _choice(case: TunerCase, answer: Answer) -> str:
    chosen, truth = setting_of(answer["chosen"]), truth_of(case)
    if chosen is None:
        return "nothing was chosen"
    if truth is None:
        if answer["grade"] != NOT_FED:
            return f"{_text(chosen)} is {answer['grade']}, but nothing feeds the device"
        wrong = chosen[0] not in case.fastest
        return f"{_text(chosen)} is not the fastest: that are {_numbers(case.fastest)} workers" if wrong else ""
    if answer["grade"] == NOT_FED:
        return f"nothing feeds the device, but {_text(truth)} does"
    return "" if chosen == truth else f"{_text(chosen)} instead of {_text(truth)}"


def _limits(case: TunerCase, answer: Answer) -> str:
    tried = [setting_of(entry["candidate"]) for entry in [*answer["tried"], *confirmed_of(answer)]]
    over = sorted({setting[0] for setting in tried if setting and setting[0] > case.most_makers})
    limit = case.most_makers
    return f"{_numbers(over)} workers were tried, but the limit is {limit}" if over else ""


def _certificate(case: TunerCase, answer: Answer, runs: Mapping[Setting, Sequence[PlainRun]]) -> str:
    """What a certificate says that is not true: the chosen settings are fed, and the neighbour is not. Or what "not separable" says: an
    interval contains the limit."""
    chosen, neighbour = setting_of(answer["chosen"]), setting_of(answer["neighbour"])
    if chosen is None or answer["grade"] not in (CERTIFIED, NOT_SEPARABLE):
        return ""
    problems = []
    if _true_state(case, chosen, runs) == STARVED:
        problems.append(f"{_text(chosen)} does not feed the device")
    if answer["grade"] == CERTIFIED and neighbour and _true_state(case, neighbour, runs) == FED:
        problems.append(f"{_text(neighbour)} feeds it too")
    intervals = [
        entry["lost_interval"]
        for entry in confirmed_of(answer)
        if setting_of(entry["candidate"]) in (chosen, neighbour)
    ]
    if answer["grade"] == NOT_SEPARABLE and not any(
        interval and interval[0] < answer["max_starved_pct"] <= interval[1] for interval in intervals
    ):
        problems.append("no interval contains the limit")
    return ", and ".join(problems)


def _true_state(case: TunerCase, setting: Setting, runs: Mapping[Setting, Sequence[PlainRun]]) -> str:
    """By the plain runs if they have an interval; otherwise by the planted times."""
    if setting in runs and (measured := state(starved_of(runs[setting]))) != OPEN:
        return measured
    truth = truth_of(case)
    if truth is None:
        return STARVED
    if setting[0] == truth[0]:
        return FED if setting[1] >= truth[1] else STARVED
    starved_pct = 100 * (1 - case.cycle_ms(truth[0]) / case.cycle_ms(setting[0]))
    if case.prefetch != DEEP[0]:  # with jitter, the mean says nothing
        return STARVED if setting < truth else OPEN
    return STARVED if starved_pct >= MAX_STARVED_PCT else FED


def _text(setting: Setting) -> str:
    makers, prefetch = setting
    workers = f"{makers} worker{'s' * (makers != 1)}"
    return f"{workers}, prefetch {prefetch}" if prefetch > DEEP[0] else workers


def _numbers(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))
