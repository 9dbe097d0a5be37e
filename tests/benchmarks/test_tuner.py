"""The planted cases of the tuner, and how its answers are judged and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tuner
from benchmarks.harness import tuner_data, tuner_exhaustive, tuner_parts, tuner_rivals
from benchmarks.harness.json_lines import append, read
from benchmarks.harness.tuner_answers import DEFAULT, Tuned
from benchmarks.harness.tuner_cases import BY_NAME, CASES, MAX_STARVED_PCT, STEP_MS, TunerCase
from benchmarks.harness.tuner_data import PlantedBatches
from benchmarks.harness.tuner_judge import judge, median_error, prediction_errors, setting_of, truth_of
from benchmarks.harness.tuner_loadtune import LoadtuneRun
from benchmarks.harness.tuner_rivals import AHEAD, BEHIND, LEVEL, TUNER, Choice, loadtune_choice
from benchmarks.harness.tuner_runs import PlainRun, Setting, mean_of, measured, sweeps
from loaderlab.config import TuneConfig
from loaderlab.tuning.answer import CERTIFIED, NOT_FED, NOT_SEPARABLE, UNCONFIRMED, Answer, Confirmed, Predicted, Tried
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.trial import Facts, Measured

TWO = BY_NAME["sleep, 2 workers"]
JITTER = BY_NAME["jitter"]
MEMORY = BY_NAME["memory for two"]


def candidate(setting: Setting) -> Candidate:
    makers, prefetch = setting
    return Candidate(makers=makers, prefetch=prefetch or None)


def answer(
    chosen: Setting | None,
    neighbour: Setting | None = None,
    grade: str = CERTIFIED,
    tried: Sequence[Setting] = (),
    rates: Sequence[tuple[float, float]] = (),
) -> dict[str, Any]:
    """An answer as JSON. ``rates``: predicted and confirmed, of 0, 1, ... workers."""
    facts = Facts(Candidate(), (), None, 16)
    trial = Measured(800.0, 0.0, None, 20.0, 100)
    all_tried = [Tried(candidate(setting), "", None, trial) for setting in tried]
    confirmed = []
    for makers, (predicted, rate) in enumerate(rates):
        all_tried.append(Tried(candidate((makers, 2)), "", Predicted(predicted, 0.0), trial))
        confirmed.append(Confirmed(candidate((makers, 2)), [trial], 0.0, None, rate))
    given = [None if setting is None else candidate(setting) for setting in (chosen, neighbour)]
    result = Answer(grade, facts, 5.0, given[0], given[1], None, all_tried, (), {}, "the certificate")
    return dataclasses.asdict(result) | {"confirmed": [dataclasses.asdict(entry) for entry in confirmed]}


def plain(
    setting: Setting, starved_pct: float, repeat: int = 1, rate: float = 800.0, case: TunerCase = TWO
) -> PlainRun:
    return PlainRun(case.name, *setting, repeat, rate, starved_pct, 0.25, 900.0)


def plain_runs(setting: Setting, *starved_pct: float, rate: float = 800.0, case: TunerCase = TWO) -> list[PlainRun]:
    return [plain(setting, share, repeat, rate, case) for repeat, share in enumerate(starved_pct)]


# ---- the cases ---------------------------------------------------------------------------------------------------------


def test_there_are_twelve_cases_with_names_of_their_own() -> None:
    assert len(CASES) == len(BY_NAME) == 12
    assert {case.makers for case in CASES} >= {None, 0, 1, 2, 3, 4}


@pytest.mark.parametrize("case", [case for case in CASES if case is not JITTER], ids=lambda case: case.name)
def test_the_truth_follows_from_the_planted_times(case: TunerCase) -> None:
    """The fewest workers are fed with a margin, and fewer are not, also with a margin. With jitter, the mean says nothing."""
    starved_pct = [100 * (1 - STEP_MS / case.cycle_ms(makers)) for makers in range(case.most_makers + 1)]
    fed = [makers for makers, share in enumerate(starved_pct) if share < MAX_STARVED_PCT]
    assert min(fed, default=None) == case.makers
    assert all(share == 0 or share > 10 for share in starved_pct)
    if case.makers is None:
        assert min(starved_pct) == pytest.approx(min(starved_pct[makers] for makers in case.fastest))


def test_the_limits_of_a_case_are_settings_of_the_tuner() -> None:
    for case in CASES:
        limits = [text.removeprefix("tune.").partition("=") for text in case.tuned(1.0) if text.startswith("tune.")]
        assert {name for name, _, _ in limits} <= {field.name for field in dataclasses.fields(TuneConfig)}


class Clock:
    """Counts what is slept and what is spent."""

    def __init__(self) -> None:
        self.slept_ms = self.spent_ms = 0.0

    def now(self) -> int:
        return 0

    def sleep_until(self, at_ns: int) -> None:
        self.slept_ms += at_ns / 1e6

    def spend(self, duration_ns: int) -> None:
        self.spent_ms += duration_ns / 1e6


def test_a_batch_takes_its_planted_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner_data, "CLOCK", clock := Clock())
    batches = PlantedBatches(2, sleep_ms=3, cpu_ms=4, locked_ms=5, crowd_ms=0.5, long_ms=100, every=3, lock="test")
    assert len(batches.__getitems__([0, 1])) == 2
    assert (clock.slept_ms, clock.spent_ms) == (8.5, 4)
    batches.__getitems__([0, 1])
    batches.__getitems__([0, 1])
    assert (clock.slept_ms, clock.spent_ms) == (3 * 8.5 + 100, 12)


def test_nothing_is_allocated_without_workers() -> None:
    batches = PlantedBatches(2, worker_mib=64)
    batches.__getitems__([0])
    assert not len(batches._allocated)


# ---- the judge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "given", "problem"),
    [
        (TWO, answer((2, 2), (1, 2)), ""),
        (TWO, answer((3, 2), (2, 2)), "3 workers instead of 2 workers"),
        (TWO, answer((1, 2), (0, 0)), "1 worker instead of 2 workers"),
        (TWO, answer((2, 2), (1, 2), NOT_SEPARABLE), ""),
        (TWO, answer((3, 2), (2, 2), NOT_SEPARABLE), "3 workers instead of 2 workers"),
        (TWO, answer((4, 2), (3, 2), NOT_SEPARABLE), "4 workers instead of 2 workers"),
        (TWO, answer((2, 2), None, UNCONFIRMED), ""),
        (TWO, answer((4, 2), None, NOT_FED), "nothing feeds the device, but 2 workers does"),
        (TWO, answer(None), "nothing was chosen"),
        (JITTER, answer((1, 8), (1, 4)), ""),
        (JITTER, answer((1, 4), (1, 2)), "1 worker, prefetch 4 instead of 1 worker, prefetch 8"),
        (MEMORY, answer((2, 2), None, NOT_FED), ""),
        (MEMORY, answer((1, 2), None, NOT_FED), "1 worker is not the fastest: that are 2 workers"),
        (MEMORY, answer((2, 2), None), "2 workers is certified, but nothing feeds the device"),
    ],
)
def test_the_choice(case: TunerCase, given: dict[str, Any], problem: str) -> None:
    assert judge(case, given).choice == problem


def test_a_limit_is_broken_by_a_trial() -> None:
    given = answer((2, 2), None, NOT_FED, tried=[(1, 2), (2, 2), (3, 2), (4, 2)])
    assert judge(MEMORY, given).limits == "3 or 4 workers were tried, but the limit is 2"
    assert not judge(MEMORY, answer((2, 2), None, NOT_FED, tried=[(2, 2)])).limits


def test_the_current_settings_have_the_same_limits() -> None:
    assert judge(dataclasses.replace(TWO, current=9), answer((2, 2), tried=[(9, 2)])).limits
    assert all(case.current <= case.most_makers for case in CASES)


@pytest.mark.parametrize(
    ("intervals", "problem"),
    [
        ([(2.5, 5.0), (20.0, 21.0)], ""),
        ([(0.0, 0.1), (4.0, 30.0)], ""),
        ([(0.0, 0.1), (20.0, 21.0)], "no interval contains the limit"),
        ([(0.0, 0.1), None], "no interval contains the limit"),
        ([], "no interval contains the limit"),
    ],
)
def test_not_separable_is_true_if_an_interval_contains_the_limit(
    intervals: Sequence[tuple[float, float] | None], problem: str
) -> None:
    trial = Measured(800.0, 0.0, None, 20.0, 100)
    confirmed = [
        dataclasses.asdict(Confirmed(candidate((makers, 2)), [trial], 0.0, interval, 800.0))
        for makers, interval in zip((2, 1), intervals, strict=False)
    ]
    confirmed.append(dataclasses.asdict(Confirmed(candidate((4, 2)), [trial], 0.0, (1.0, 9.0), 800.0)))
    given = answer((2, 2), (1, 2), NOT_SEPARABLE) | {"confirmed": confirmed}
    assert judge(TWO, given).certificate == problem


def test_a_certificate_against_the_planted_truth() -> None:
    assert judge(TWO, answer((2, 2), (1, 2))).is_right
    assert judge(TWO, answer((3, 2), (2, 2))).certificate == "2 workers feeds it too"
    assert judge(TWO, answer((1, 2), (0, 0))).certificate == "1 worker does not feed the device"
    assert judge(JITTER, answer((1, 8), (1, 4))).is_right
    assert judge(JITTER, answer((1, 8), (0, 0))).is_right
    assert judge(JITTER, answer((1, 4), (1, 2))).certificate == "1 worker, prefetch 4 does not feed the device"
    assert judge(TWO, answer((3, 2), (2, 2), UNCONFIRMED)).certificate == ""  # it certifies nothing


def test_plain_runs_decide_if_their_interval_does() -> None:
    fed, starved = plain_runs((1, 2), 1.0, 1.1, 0.9), plain_runs((2, 2), 20.0, 21.0, 19.0)
    expected = "2 workers does not feed the device, and 1 worker feeds it too"
    assert judge(TWO, answer((2, 2), (1, 2)), [*fed, *starved]).certificate == expected
    assert judge(TWO, answer((2, 2), (1, 2)), plain_runs((2, 2), 0.0, 30.0, 2.0)).is_right  # the interval contains 5 %


def test_the_error_of_a_prediction() -> None:
    given = answer((2, 2), rates=[(110.0, 100.0), (195.0, 200.0), (300.0, 300.0)])
    assert prediction_errors(given) == pytest.approx([10.0, 2.5, 0.0])
    error = median_error([given, answer((2, 2))])
    assert error.value == pytest.approx(2.5)
    assert error.num_runs == 3
    given["tried"][0]["predicted"]["rate"] = None  # was not finite
    assert prediction_errors(given) == pytest.approx([2.5, 0.0])
    by_candidate = given | {"confirmed": {"first": given["confirmed"][0]}}
    assert prediction_errors(by_candidate | {"tried": answer(None, rates=[(110.0, 1.0)])["tried"]}) == pytest.approx(
        [10.0]
    )


def test_without_workers_there_is_no_prefetch() -> None:
    assert setting_of(dataclasses.asdict(Candidate())) == (0, 0) == truth_of(BY_NAME["sleep, 0 workers"])
    assert setting_of(dataclasses.asdict(Candidate(makers=3))) == (3, 2)  # PyTorch's own value


# ---- plain runs, exhaustive search -------------------------------------------------------------------------------------


def test_settings_are_run_in_few_sweeps() -> None:
    settings = [(0, 0), (1, 2), (1, 4), (2, 2), (2, 4), (3, 4)]
    assert sweeps(settings) == [([0], [0]), ([1, 2], [2, 4]), ([3], [4])]


def test_runs_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[int], list[int]]] = []

    def sweep(case: TunerCase, makers: list[int], prefetches: list[int], repeat: int) -> list[PlainRun]:
        asked.append((makers, prefetches))
        return [plain((number, prefetch), 0.0, repeat) for number in makers for prefetch in prefetches]

    monkeypatch.setattr("benchmarks.harness.tuner_runs._sweep", sweep)
    path = tmp_path / "new" / "plain.jsonl"
    assert len(list(measured(TWO, [(1, 2)], 1, path))) == 1
    assert len(list(measured(TWO, [(1, 2), (2, 2)], 1, path))) == 1
    assert len(list(measured(TWO, [(1, 2)], 2, path))) == 1
    assert asked == [([1], [2]), ([2], [2]), ([1], [2])]
    assert len(read(path, PlainRun)) == 3


def test_mean_and_interval() -> None:
    assert str(mean_of([1.0, 2.0, 3.0])) == "2.0 (-0.5 to 4.5)"
    assert str(mean_of([1.0])) == "1.0"


def test_every_candidate_is_within_the_limits() -> None:
    settings = tuner_exhaustive.candidates(MEMORY)
    assert settings == [(0, 0), (1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (2, 8)]


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        ((2, 2), ""),
        ((3, 2), ""),
        ((4, 2), "4 workers instead of 2"),
        ((1, 2), "533 samples/s, and 760 are required"),
        ((5, 2), "5 workers instead of 2; no plain run of the chosen settings"),
    ],
)
def test_the_choice_against_every_candidate(chosen: Setting, problem: str) -> None:
    runs = plain_runs((1, 2), 33.0, 34.0, 33.5, rate=533.0)
    for makers in (2, 3, 4):
        runs += plain_runs((makers, 2), 0.1, 0.0, 0.2)
    runs += plain_runs((1, 4), 4.0, 9.0, 6.0)
    result = tuner_exhaustive.compared(TWO, runs, answer(chosen))
    assert (result.cheapest, list(result.open)) == ((2, 2), [(1, 4)])
    assert result.problems == problem


# ---- rivals ------------------------------------------------------------------------------------------------------------


def trial(workers: int, throughput: float, prefetch: int | None = None) -> dict[str, Any]:
    knobs = {"num_workers": workers, "prefetch_factor": prefetch}
    return {"knobs": knobs, "throughput": throughput, "result": {"throughput": throughput}}


@pytest.mark.parametrize(
    ("trials", "choice"),
    [
        ([trial(2, 800.0), trial(4, 810.0)], (2, 2)),
        ([trial(2, 700.0), trial(4, 810.0, 4)], (4, 4)),
        ([trial(2, 90.0)], (0, 0)),
        ([], (0, 0)),
        ([{**trial(4, 900.0), "result": {"error": "it died"}}, trial(1, 200.0)], (1, 2)),
    ],
)
def test_what_loadtune_recommends(trials: list[dict[str, Any]], choice: Setting) -> None:
    assert loadtune_choice({"baseline": trial(0, 100.0), "trials": trials}) == choice


def choice(tool: str, setting: Setting, starved_pct: float, rate: float = 800.0, case: TunerCase = TWO) -> Choice:
    return Choice(case, tool, setting, 60.0, [plain(setting, starved_pct, rate=rate, case=case)])


@pytest.mark.parametrize(
    ("own", "other", "result"),
    [
        (((2, 2), 0.0), ((4, 2), 0.0), AHEAD),
        (((2, 2), 0.0), ((2, 2), 0.1), LEVEL),
        (((3, 2), 0.0), ((2, 2), 0.0), BEHIND),
        (((3, 2), 0.0), ((1, 2), 33.0), AHEAD),
        (((1, 2), 33.0), ((3, 2), 0.0), BEHIND),
    ],
)
def test_the_tuner_against_a_rival(own: tuple[Setting, float], other: tuple[Setting, float], result: str) -> None:
    assert tuner_rivals.compared(choice(TUNER, *own), choice("other", *other)) == result


def test_settings_are_fed_by_the_interval_over_their_runs() -> None:
    wide = Choice(TWO, "other", (2, 2), 60.0, plain_runs((2, 2), 0.0, 9.0, 3.0))
    assert not wide.is_fed  # the mean is 4 %
    assert Choice(TWO, "other", (2, 2), 60.0, plain_runs((2, 2), 3.9, 4.1, 4.0)).is_fed
    assert choice("other", (2, 2), 4.0).is_fed


def test_if_nothing_feeds_the_device_the_faster_is_ahead() -> None:
    def against(own: float, other: float) -> str:
        return tuner_rivals.compared(choice(TUNER, (2, 2), 20.0, own), choice("other", (1, 2), 25.0, other))

    assert [against(640.0, 500.0), against(640.0, 645.0), against(500.0, 640.0)] == [AHEAD, LEVEL, BEHIND]


def test_settings_above_the_memory_are_worse_than_starved_ones() -> None:
    own, other = choice(TUNER, (2, 2), 20.0, 640.0, MEMORY), choice("other", (4, 2), 0.0, 800.0, MEMORY)
    assert tuner_rivals.compared(own, other) == AHEAD
    assert tuner_rivals.compared(other, own) == BEHIND


def test_the_rivals_table() -> None:
    choices = [choice(TUNER, (3, 2), 0.0), choice("other", (2, 2), 0.0)]
    text = tuner_rivals.table(choices)
    assert "| sleep, 2 workers | other | 2 | 2 | 1 | 0.0 | 900 | 0.25 | 60 | behind |" in text
    assert tuner_rivals.outcomes(choices) == [BEHIND]


def test_a_rival_is_only_compared_with_an_answer_for_its_own_case() -> None:
    choices = [choice(TUNER, (2, 2), 0.0), choice("other", (1, 2), 0.0, case=MEMORY)]
    assert tuner_rivals.outcomes(choices) == []
    assert tuner_rivals.table(choices).endswith("| 60 |  |")


# ---- the command -------------------------------------------------------------------------------------------------------


def tuned(case: TunerCase, chosen: Setting, neighbour: Setting | None, repeat: int, grade: str = CERTIFIED) -> Tuned:
    given = answer(chosen, neighbour, grade, rates=[(800.0, 800.0)])
    return Tuned(case.name, repeat, 50.0, given | {"search_s": 20.0, "confirm_s": 25.0, "starts_s": 30.0})


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers and runs of one case; nothing is started."""
    monkeypatch.setattr("benchmarks.harness.tuner_runs.restrict_cores", lambda: None)
    for name in ("tune", "tune_default", "measured"):
        monkeypatch.setattr(tuner_parts, name, lambda *_: pytest.fail("was started"))
    append(tmp_path / "answers.jsonl", tuned(TWO, (2, 2), (1, 2), 1))
    for setting in tuner_exhaustive.candidates(TWO):
        for repeat in (1, 2, 3):
            append(tmp_path / "plain.jsonl", plain(setting, 0.0 if setting[0] > 1 else 30.0, repeat))
    append(tmp_path / "loadtune.jsonl", LoadtuneRun(TWO.name, 1, 30.0, 2, 2))
    monkeypatch.setattr(tuner_parts, "measured", lambda *_: [])
    return tmp_path


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("planted", "cheapest settings chosen in 1 of 1; limits broken in 0; false certificates in 0"),
        ("exhaustive", "cheapest fed (2, 2), not separable [], chosen (2, 2) (800 samples/s, required 760): right"),
        ("rivals", "loaderlab is: ahead 2, level 2"),
        ("prediction", "median error 0.0 %"),
    ],
)
def test_parts_use_what_was_run(part: str, line: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuner.main([part, "--results", str(results), "--only", TWO.name, "--repeats", "1"]) == 0
    assert line in capsys.readouterr().out


def test_a_wrong_choice_fails(results: Path) -> None:
    append(results / "answers.jsonl", tuned(TWO, (3, 2), (2, 2), 2))
    arguments = ["--results", str(results), "--only", TWO.name, "--repeats", "1"]
    assert tuner.main(["planted", *arguments]) == 1


@pytest.mark.parametrize("part", ["exhaustive", "rivals", "prediction"])
def test_without_answers_nothing_is_right(part: str, results: Path) -> None:
    (results / "answers.jsonl").unlink()
    assert tuner.main([part, "--results", str(results), "--only", TWO.name, "--repeats", "1"]) == 1


def test_the_default_case_has_a_time_limit(results: Path) -> None:
    append(results / "answers.jsonl", dataclasses.replace(tuned(TWO, (2, 2), None, 1), case=DEFAULT, wall_s=179.0))
    assert tuner.main(["default", "--results", str(results), "--repeats", "1"]) == 0
    append(results / "answers.jsonl", dataclasses.replace(tuned(TWO, (2, 2), None, 2), case=DEFAULT, wall_s=181.0))
    assert tuner.main(["default", "--results", str(results), "--repeats", "1"]) == 1


def test_the_parts_of_the_command_exist() -> None:
    assert tuple(tuner_parts.PARTS) == tuner.PARTS
