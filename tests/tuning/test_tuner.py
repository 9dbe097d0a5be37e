"""The search and the confirmation together, on simulated machines with a simulated clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from loaderlab.config import UserError
from loaderlab.tuning.answer import CERTIFIED, NOT_FED, NOT_SEPARABLE, UNCONFIRMED, Answer
from loaderlab.tuning.candidate import RESIDENT, SPDL, Branch, Candidate
from loaderlab.tuning.confirm import Confirmation
from loaderlab.tuning.limits import Machine
from loaderlab.tuning.lost import OPEN
from loaderlab.tuning.trial import Facts, Measured, Trial, TrialFailed
from loaderlab.tuning.tuner import tune
from tests.tuning.simulated import GIB, NATIVE_ONLY, Simulated, linear
from tests.tuning.test_search import native


@dataclass
class Shown:
    """A watcher that keeps what it is shown."""

    started: list[tuple[Trial, float]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def starts(self, trial: Trial, left_s: float) -> None:
        self.started.append((trial, left_s))
        self.lines.append("starts")

    def ended(self, trial: Trial, result: Measured | TrialFailed, lost_pct: float | None) -> None:
        self.lines.append("ended")

    def note(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class Tuned:
    """One run of the tuner.

    Attributes:
        trial_s: how long each trial takes on the simulated clock.
        refuses_s: how long the check of another loader takes on it.
        interrupt_at: number of the trial during which Ctrl-C comes, from 0.
    """

    case: Simulated
    trial_s: float = 4.0
    refuses_s: float = 2.0
    minutes: float = 3.0
    interrupt_at: int | None = None
    time_s: float = 0.0
    shown: Shown = field(default_factory=Shown)

    def facts(self) -> Facts:
        return self.case.facts()

    def refuses(self, branch: Branch) -> str:
        self.time_s += self.refuses_s
        return self.case.refuses(branch)

    def close(self) -> None:
        pass

    def run(self, trial: Trial) -> Measured:
        if len(self.case.ran) == self.interrupt_at:
            raise KeyboardInterrupt
        self.time_s += self.trial_s
        return self.case.run(trial)

    def answer(self) -> Answer:
        answer = tune(
            self,
            lambda _: self.case.machine,
            self.shown,
            minutes=self.minutes,
            limit_pct=5.0,
            now=lambda: self.time_s,
        )
        assert bool(answer.missing) == (answer.grade == NOT_FED)
        return answer


def test_a_certificate() -> None:
    tuned = Tuned(Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0))
    answer = tuned.answer()
    assert answer.grade == CERTIFIED
    assert answer.chosen == native(2)
    assert answer.neighbour == native(1)
    assert len(answer.confirmed[native(2)].runs) == 3
    assert answer.certificate.startswith("with 2 workers the device is starved 0.")
    assert "with 1 worker, the next cheaper settings, 40.0 % of the time (39.2 to 40.8 %, n = 3)" in answer.certificate
    # the settings now are confirmed too, each once per round, in the other order in the second round
    rounds = [[trial.candidate.makers for trial in tuned.case.ran if trial.round == number] for number in (1, 2, 3)]
    assert rounds == [[2, 1, 0], [0, 1, 2], [2, 1, 0]]
    assert all(trial.epoch_steps for trial in tuned.case.ran if trial.round)
    assert answer.search_s + answer.confirm_s == tuned.time_s <= 180


def test_only_confirmed_figures_count() -> None:
    """A search that was lucky with 2 workers is corrected."""

    def demand_met(makers: int) -> float:
        return 600.0 * max(1, makers)

    case = Simulated({NATIVE_ONLY: demand_met}, lambda _: 1000.0)
    real = case.run

    def run(trial: Trial) -> Measured:
        result = real(trial)
        if trial.candidate.makers == 2 and trial.round:
            return replace(result, starved_pct=8.0 + 0.1 * trial.round, rate=920.0)
        return result

    case.run = run  # type: ignore[method-assign]
    case.current = native(3)
    answer = Tuned(case, minutes=10).answer()
    assert answer.grade == CERTIFIED
    assert answer.chosen == native(3)
    assert answer.neighbour is not None
    assert answer.neighbour.makers == 2


def test_a_cheaper_setting_that_turns_out_to_be_fed() -> None:
    case = Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0)
    real = case.run

    def run(trial: Trial) -> Measured:
        result = real(trial)
        if trial.candidate.makers == 1 and trial.round:
            return replace(result, starved_pct=1.0, rate=990.0)
        return result

    case.run = run  # type: ignore[method-assign]
    answer = Tuned(case, minutes=10).answer()
    assert answer.grade == CERTIFIED
    assert answer.chosen == native(1)
    assert answer.neighbour == native(0)


def test_not_separable_names_both() -> None:
    case = Simulated({NATIVE_ONLY: linear(480)}, lambda _: 1000.0, current=native(3))
    real = case.run

    def run(trial: Trial) -> Measured:
        result = real(trial)
        if trial.candidate.makers == 2:
            share = 5.0 + (trial.round - 2) * 0.5
            return replace(result, starved_pct=share, starved_interval=(share - 1, share + 1))
        return result

    case.run = run  # type: ignore[method-assign]
    answer = Tuned(case).answer()
    assert answer.grade == NOT_SEPARABLE
    assert answer.chosen == native(3)
    assert answer.neighbour == native(2)
    assert "3 workers" in answer.certificate
    assert "2 workers" in answer.certificate


def test_nothing_feeds_the_device() -> None:
    machine = Machine(cores=2, memory_bytes=8 * GIB)
    case = Simulated(
        {NATIVE_ONLY: lambda makers: 400.0 * min(2, max(1, makers))},
        lambda _: 2000.0,
        cores_per_maker=1.0,
        machine=machine,
    )
    answer = Tuned(case).answer()
    assert answer.grade == NOT_FED
    assert answer.chosen == native(2)
    assert "about 5.0 cores would be needed, and there are 2" in answer.missing


@pytest.mark.parametrize(
    ("cpu_s_per_sample", "missing"),
    [
        (
            2.6e-3,
            "To load what the step takes, and for the step itself, about 2.3 cores would be needed, and there are 2.",
        ),
        (1.3e-3, "The measurements do not show what is missing. Less work per sample would help."),
    ],
)
def test_the_step_needs_cores_too(cpu_s_per_sample: float, missing: str) -> None:
    """The loader alone needs 1.1 of 2 cores for the 900 samples/s of the step, and workers that compute are not enough."""
    case = Simulated(
        {NATIVE_ONLY: lambda _: 800.0},
        lambda _: 900.0,
        cores_per_maker=1.0,
        cpu_s_per_sample=cpu_s_per_sample,
        uses_host_cores=True,
        machine=Machine(cores=2, memory_bytes=8 * GIB),
    )
    answer = Tuned(case).answer()
    assert (answer.grade, answer.missing) == (NOT_FED, missing)


def test_a_lock_is_named() -> None:
    answer = Tuned(Simulated({NATIVE_ONLY: linear(300, most=600)}, lambda _: 1000.0)).answer()
    assert answer.grade == NOT_FED
    assert answer.chosen == native(2)
    assert answer.missing.startswith("Cores are not missing")
    assert "such as a lock or the storage" in answer.missing
    assert "Not tried" not in answer.missing


def test_nothing_is_cheaper_than_no_workers() -> None:
    answer = Tuned(Simulated({NATIVE_ONLY: linear(3000)}, lambda _: 1000.0, current=native(4))).answer()
    assert answer.grade == CERTIFIED
    assert answer.chosen == native(0)
    assert answer.certificate.endswith("nothing is cheaper than no workers")


@pytest.mark.parametrize("minutes", [0.3, 0.5, 2.3, 3.0])
def test_the_time_limit(minutes: float) -> None:
    case = Simulated({NATIVE_ONLY: linear(150), Branch(SPDL): linear(160)}, lambda _: 1000.0)
    tuned = Tuned(case, minutes=minutes)
    answer = tuned.answer()
    assert tuned.time_s <= 60 * minutes
    assert answer.grade == (CERTIFIED if minutes >= 2 else UNCONFIRMED)
    assert answer.chosen is not None
    note = "spdl was not tried, because the time limit was reached"
    assert (note in answer.notes) == (minutes < 2)
    enough = " would be enough to confirm the answer"
    assert any(enough in text for text in answer.notes) == (answer.grade == UNCONFIRMED)


def test_a_slow_start_of_other_settings_takes_no_time_from_the_confirmation() -> None:
    """Confirmation runs are expected to take as long as the settings that they confirm."""
    case = Simulated(
        {NATIVE_ONLY: linear(600), Branch(SPDL): linear(50)},
        lambda _: 1000.0,
        start_s=lambda candidate: 60.0 if candidate.branch == Branch(SPDL) else 1.0,
    )
    answer = Tuned(case).answer()
    assert Branch(SPDL) in {trial.candidate.branch for trial in case.ran}
    assert answer.grade == CERTIFIED


@pytest.mark.parametrize(
    ("threads", "rate", "minutes"), [(1, 2000.0, 0.5), (2, 600.0, 0.85)], ids=["no neighbour", "a neighbour"]
)
def test_another_loader_that_could_be_cheaper_was_not_tried(threads: int, rate: float, minutes: float) -> None:
    current = Candidate(Branch(SPDL), threads, 3, pin_memory=True, side_stream=True)
    case = Simulated({Branch(SPDL): linear(rate), NATIVE_ONLY: linear(2000)}, lambda _: 1000.0, current=current)
    answer = Tuned(case, minutes=minutes).answer()
    assert (answer.grade, answer.chosen) == (UNCONFIRMED, current)
    assert len(answer.confirmed[current].runs) == 3
    reason = "native could be cheaper and was not tried, because the time limit was reached"
    assert answer.certificate.endswith(reason)
    answer = Tuned(case).answer()
    assert (answer.grade, answer.chosen) == (CERTIFIED, native(0))


def test_another_loader_is_not_checked_if_there_is_no_time_for_it() -> None:
    """A check may take minutes."""
    case = Simulated({NATIVE_ONLY: linear(600), Branch(SPDL): linear(2000)}, lambda _: 1000.0, current=native(2))
    tuned = Tuned(case, minutes=50 / 60, refuses_s=60)
    answer = tuned.answer()
    assert tuned.time_s <= 50
    assert (answer.grade, answer.chosen) == (UNCONFIRMED, native(2))
    assert "spdl was not tried, because the time limit was reached" in answer.notes


def test_ctrl_c_keeps_what_is_known() -> None:
    for number in range(1, 9):
        case = Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0)
        answer = Tuned(case, interrupt_at=number).answer()
        assert answer.grade == UNCONFIRMED
        assert answer.interrupted
        assert "because it was interrupted" in answer.certificate
        assert ". " not in answer.certificate  # one sentence
        assert len(answer.tried) == min(number, 3)


def test_ctrl_c_keeps_all_samples_on_the_device() -> None:
    """Resident samples have no queue that could be shorter."""
    numbers = range(1, 30)
    for number in numbers:
        branches = {NATIVE_ONLY: linear(300), Branch(RESIDENT): lambda _: 1e6}
        answer = Tuned(Simulated(branches, lambda _: 1000.0, epoch_steps=100), interrupt_at=number).answer()
        if not answer.interrupted:
            break
    assert answer.chosen == Candidate(Branch(RESIDENT))
    assert answer.grade == CERTIFIED


def test_ctrl_c_before_anything_is_known() -> None:
    with pytest.raises(KeyboardInterrupt):
        Tuned(Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0), interrupt_at=0).answer()


def test_settings_that_fail_now() -> None:
    with pytest.raises(UserError, match="a run with the settings now fails: its process was ended by SIGKILL"):
        Tuned(Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0, dies_from=0)).answer()
    with pytest.raises(UserError, match="SIGKILL; 1 worker and 0 workers too$"):
        Tuned(Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0, dies_from=0, current=native(12))).answer()


def test_settings_that_die_now_do_not_end_the_search() -> None:
    """12 workers die, and 2 feed the device."""
    answer = Tuned(Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0, dies_from=8, current=native(12))).answer()
    assert (answer.grade, answer.chosen) == (CERTIFIED, native(2))
    assert [entry.candidate.makers for entry in answer.tried][:2] == [12, 1]
    assert any(text.startswith("the settings now, 12 workers, were not confirmed") for text in answer.notes)


def test_settings_that_die_now_are_not_run_again_after_cheaper_ones_have_died() -> None:
    """4 workers with a queue of 8 die, and later 2 with a queue of 4; the machine has memory for neither."""
    case = Simulated(
        {NATIVE_ONLY: linear(600)},
        lambda _: 1000.0,
        jitter=lambda candidate: 12.0 if candidate.makers == 2 else 0.0,
        current=native(4, 8),
    )
    real = case.run

    def run(trial: Trial) -> Measured:
        if trial.candidate in (native(4, 8), native(2, 4)):
            raise TrialFailed("its process was ended by SIGKILL")
        return real(trial)

    case.run = run  # type: ignore[method-assign]
    answer = Tuned(case).answer()
    assert [entry.candidate for entry in answer.tried if entry.error] == [native(4, 8), native(2, 4)]
    assert (answer.grade, answer.chosen) == (CERTIFIED, native(3))
    assert any(text.startswith("the settings now, 4 workers, prefetch 8, were not confirmed") for text in answer.notes)


def test_only_cheaper_settings_that_died_are_named() -> None:
    case = Simulated({NATIVE_ONLY: linear(1200)}, lambda _: 1000.0, current=native(12), dies_from=8)
    real = case.run

    def run(trial: Trial) -> Measured:
        if not trial.candidate.makers:
            raise TrialFailed("its process was ended by SIGKILL")
        return real(trial)

    case.run = run  # type: ignore[method-assign]
    answer = Tuned(case).answer()
    assert (answer.grade, answer.chosen) == (CERTIFIED, native(1))
    assert answer.certificate.endswith("nothing is cheaper (0 workers died)")


def test_no_workers_if_one_dies_too() -> None:
    """As with a small /dev/shm, on which no limit is known."""
    answer = Tuned(Simulated({NATIVE_ONLY: linear(1200)}, lambda _: 1000.0, dies_from=1, current=native(2))).answer()
    assert [entry.candidate.makers for entry in answer.tried][:3] == [2, 1, 0]
    assert (answer.grade, answer.chosen) == (CERTIFIED, native(0))


def test_no_worker_is_started_if_none_is_allowed() -> None:
    machine = Machine(cores=8, memory_bytes=64 * GIB, max_makers=0)
    case = Simulated({NATIVE_ONLY: linear(1200)}, lambda _: 1000.0, current=native(2), machine=machine)
    assert Tuned(case).answer().chosen == native(0)
    assert {trial.candidate.makers for trial in case.ran} == {0}


def test_threads_that_are_not_allowed() -> None:
    machine = Machine(cores=8, memory_bytes=64 * GIB, max_makers=0)
    current = Candidate(Branch(SPDL), 2, 3)
    case = Simulated({Branch(SPDL): linear(600)}, lambda _: 1000.0, current=current, machine=machine)
    with pytest.raises(UserError, match=r"tune.max_makers=1"):
        Tuned(case).answer()
    assert not case.ran


@pytest.mark.parametrize(
    ("current", "machine", "note"),
    [
        (
            500,
            Machine(8, 64 * GIB, max_makers=4),
            "the settings now, 500 workers, were not run, because of a limit: the largest number of workers was set to 4",
        ),
        (
            4,
            Machine(8, int(0.7 * GIB)),
            "the settings now, 4 workers, were not confirmed, because of a limit: 4 workers of 300 MiB",
        ),
    ],
    ids=["max_makers", "memory"],
)
def test_settings_now_beyond_a_limit_are_not_confirmed(current: int, machine: Machine, note: str) -> None:
    case = Simulated(
        {NATIVE_ONLY: linear(600)}, lambda _: 1000.0, worker_mib=300.0, current=native(current), machine=machine
    )
    answer = Tuned(case).answer()
    assert (answer.grade, answer.chosen) == (CERTIFIED, native(2))
    assert native(current) not in answer.confirmed
    assert any(text.startswith(note) for text in answer.notes)


def test_progress_says_why_and_how_long() -> None:
    tuned = Tuned(Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0))
    tuned.answer()
    reasons = [trial.reason for trial, _ in tuned.shown.started]
    assert reasons[:3] == [
        "the settings now",
        "to predict the rate of other numbers of makers",
        "predicted to feed the device",
    ]
    assert "the chosen settings" in reasons[3:]
    assert [left for _, left in tuned.shown.started][:2] == [180.0, 176.0]


def test_a_fed_device_is_reported_after_the_first_trial() -> None:
    tuned = Tuned(Simulated({NATIVE_ONLY: linear(2000)}, lambda _: 1000.0, current=native(4)))
    tuned.answer()
    note = "the first trial, with 4 workers, was fed: only cheaper settings are looked for"
    assert tuned.shown.lines[:4] == ["starts", "ended", note, "starts"]
    assert tuned.shown.lines.count(note) == 1


def test_no_certificate_before_everything_cheaper_was_tried() -> None:
    """Only 1 and 8 workers were tried: that 1 is too few does not show that 2 to 7 are."""
    case = Simulated({NATIVE_ONLY: linear(400)}, lambda _: 1000.0, current=native(8))
    answer = Tuned(case, minutes=0.8).answer()
    assert {candidate.makers: len(confirmed.runs) for candidate, confirmed in answer.confirmed.items()} == {8: 3, 1: 3}
    assert answer.grade == UNCONFIRMED
    assert "cheaper settings were not all tried, because the time limit was reached" in answer.certificate


def test_two_runs_show_nothing() -> None:
    case = Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0)
    confirmation = Confirmation(case.searched(), lambda _: True)
    trials = confirmation.trials()
    trial = next(trials)
    while trial.round < 3:
        trial = trials.send(case.run(trial))
    assert len(confirmation.confirmed[confirmation.chosen].runs) == 2
    assert confirmation.grade(confirmation.chosen) == OPEN
