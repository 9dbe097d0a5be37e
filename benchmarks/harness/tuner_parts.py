"""The parts of `benchmarks.tuner`: each continues the files in a folder, prints what they say, and returns whether it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import tuner_exhaustive, tuner_judge, tuner_loadtune, tuner_rivals
from benchmarks.harness.json_lines import append, read
from benchmarks.harness.tuner_answers import DEFAULT, LIMIT_S, Tuned, tune, tune_default
from benchmarks.harness.tuner_cases import TunerCase
from benchmarks.harness.tuner_loadtune import LoadtuneRun
from benchmarks.harness.tuner_rivals import BEHIND, LOADTUNE, RULES, TUNER, Choice
from benchmarks.harness.tuner_runs import PlainRun, Setting, by_setting, measured

LEAST_RIGHT = 11 / 12  # share of the searches with the cheapest feeding settings
LARGEST_ERROR_PCT = 10.0  # median error of a predicted rate
NO_ANSWERS = ": there are no answers of these cases; run the part planted first"


@dataclass(frozen=True)
class Bench:
    """What is run.

    Attributes:
        folder: of the files with the results.
        minutes: time limit of each search.
    """

    cases: Sequence[TunerCase]
    repeats: int
    minutes: float
    folder: Path
    packages: Path

    @property
    def plain(self) -> Path:
        return self.folder / "plain.jsonl"

    @property
    def answers(self) -> Path:
        return self.folder / "answers.jsonl"

    @property
    def loadtune(self) -> Path:
        return self.folder / "loadtune.jsonl"

    def runs_of(self, case: TunerCase) -> list[PlainRun]:
        """The plain runs of a case in the file."""
        return [run for run in read(self.plain, PlainRun) if run.case == case.name]

    def answers_of(self, case: TunerCase) -> list[Tuned]:
        """The answers for a case in the file, by repeat."""
        tuned = [tuned for tuned in read(self.answers, Tuned) if tuned.case == case.name]
        return sorted(tuned, key=lambda tuned: tuned.repeat)


def planted(bench: Bench) -> bool:
    """Tunes each case, and judges the answers."""
    for repeat in range(1, bench.repeats + 1):
        for case in bench.cases:
            if repeat not in {tuned.repeat for tuned in bench.answers_of(case)}:
                append(bench.answers, tune(case, repeat, bench.minutes))
    judged = []
    for case in bench.cases:
        for tuned in bench.answers_of(case):
            judged.append(tuner_judge.judge(case, tuned.answer, bench.runs_of(case)))
            print(f"{case.name:34} {tuned.repeat}: {tuned.answer['certificate']}; {tuned.times}")
            print(f"{'':37}{judged[-1].problems or 'right'}", flush=True)
    right = sum(not judgement.choice for judgement in judged)
    broken, false = (
        sum(map(bool, texts)) for texts in zip(*((one.limits, one.certificate) for one in judged), strict=True)
    )
    grades = Counter(tuned.answer["grade"] for case in bench.cases for tuned in bench.answers_of(case))
    print(
        f"cheapest settings chosen in {right} of {len(judged)}; limits broken in {broken}; false certificates in {false}"
    )
    print("grades: " + ", ".join(f"{grade} {count}" for grade, count in grades.most_common()))
    return right >= LEAST_RIGHT * len(judged) and not broken and not false


def exhaustive(bench: Bench) -> bool:
    """Runs every candidate, and compares the answers with the cheapest that feeds the device."""
    for repeat in range(1, bench.repeats + 1):
        for case in bench.cases:
            _measure(bench, case, tuner_exhaustive.candidates(case), repeat)
    num_wrong = num_answers = 0
    for case in bench.cases:
        for tuned in bench.answers_of(case):
            result = tuner_exhaustive.compared(case, bench.runs_of(case), tuned.answer)
            num_answers += 1
            num_wrong += bool(result.problems)
            settings = f"cheapest fed {result.cheapest}, not separable {list(result.open)}, chosen {result.chosen}"
            rate = "no run" if result.rate is None else f"{result.rate:.0f} samples/s"
            print(f"{case.name:34} {settings} ({rate}, required {result.required:.0f}): {result.problems or 'right'}")
    print(f"{num_wrong} of {num_answers} choices are too expensive or too slow{'' if num_answers else NO_ANSWERS}")
    return bool(num_answers) and not num_wrong


def rivals(bench: Bench) -> bool:
    """Runs loadtune, and plain runs with the settings that each tool and rule chooses for a case."""
    for case in bench.cases:
        if not any(run.case == case.name for run in read(bench.loadtune, LoadtuneRun)):
            append(bench.loadtune, tuner_loadtune.run(case, 1, bench.packages))
    settings = {case.name: _chosen(bench, case) for case in bench.cases}
    for repeat in range(1, bench.repeats + 1):
        for case in bench.cases:
            wanted = {setting for setting, _ in settings[case.name].values()}
            _measure(bench, case, sorted(wanted), repeat)
    choices = []
    for case in bench.cases:
        runs = by_setting(bench.runs_of(case))
        for tool, (setting, seconds) in settings[case.name].items():
            choices.append(Choice(case, tool, setting, seconds, runs[setting]))
    print(tuner_rivals.table(choices))
    outcomes = tuner_rivals.outcomes(choices)
    counts = ", ".join(f"{outcome} {count}" for outcome, count in sorted(Counter(outcomes).items()))
    print(f"loaderlab is: {counts}" if outcomes else f"nothing to compare{NO_ANSWERS}")
    return bool(outcomes) and BEHIND not in outcomes


def default(bench: Bench) -> bool:
    """Tunes the default case."""
    for repeat in range(1, bench.repeats + 1):
        if not any((tuned.case, tuned.repeat) == (DEFAULT, repeat) for tuned in read(bench.answers, Tuned)):
            append(bench.answers, tune_default(repeat))
    tuned_runs = [tuned for tuned in read(bench.answers, Tuned) if tuned.case == DEFAULT]
    for tuned in tuned_runs:
        print(f"{tuned.times}: {tuned.answer['certificate']}")
    return all(tuned.wall_s <= LIMIT_S for tuned in tuned_runs)


def prediction(bench: Bench) -> bool:
    """Compares the predicted rates of the answers in the file with the confirmed ones."""
    answers = [tuned.answer for case in bench.cases for tuned in bench.answers_of(case)]
    error = tuner_judge.median_error(answers)
    ends = error.interval or (float("nan"), float("nan"))
    print(f"median error {error.value:.1f} % (range {ends[0]:.1f} to {ends[1]:.1f} %, n = {error.num_runs} settings)")
    return error.value <= LARGEST_ERROR_PCT


PARTS: Mapping[str, Callable[[Bench], bool]] = {
    "planted": planted,
    "exhaustive": exhaustive,
    "rivals": rivals,
    "default": default,
    "prediction": prediction,
}


def _chosen(bench: Bench, case: TunerCase) -> dict[str, tuple[Setting, float]]:
    """The settings that each tool chooses, and its time; the tuner's first answer, if there is one, first."""
    chosen: dict[str, tuple[Setting, float]] = {}
    for tuned in bench.answers_of(case)[:1]:
        if (setting := tuner_judge.setting_of(tuned.answer["chosen"])) is not None:
            chosen[TUNER] = setting, tuned.wall_s
    for run in read(bench.loadtune, LoadtuneRun):
        if run.case == case.name:
            chosen.setdefault(LOADTUNE, (run.setting, run.seconds))
    return chosen | {rule: (setting, 0.0) for rule, setting in RULES.items()}


def _measure(bench: Bench, case: TunerCase, settings: Sequence[Setting], repeat: int) -> None:
    for run in measured(case, settings, repeat, bench.plain):
        workers = f"{run.makers} workers, prefetch {run.prefetch}"
        print(
            f"{case.name:34} {repeat}: {workers}: starved {run.starved_pct:.1f} %, {run.rate:.0f} samples/s", flush=True
        )
