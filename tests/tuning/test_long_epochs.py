"""Epochs longer than a trial of the search: the confirmation shows the time that is lost between them."""

from __future__ import annotations

from dataclasses import replace

from loaderlab.tuning.answer import CERTIFIED, NOT_FED
from loaderlab.tuning.candidate import Candidate
from tests.tuning.simulated import NATIVE_ONLY, Simulated, linear
from tests.tuning.test_contradicted import DOUBTFUL, planted, tried
from tests.tuning.test_tuner import Tuned

SPAWNED = Candidate(
    makers=4, prefetch=2, pin_memory=True, side_stream=True, persistent=False, start_method="spawn"
)  # 4 workers are needed
GAP_MS = 3000.0  # the time lost between epochs of 20 s


def long_epochs(saves: Candidate | None, current: Candidate = SPAWNED, most: float = 1e9) -> Simulated:
    """A loader that loses time between epochs, unless its workers start as those of ``saves``."""

    def gap_ms(candidate: Candidate) -> float:
        start = candidate.persistent, candidate.start_method
        return 0.0 if saves is not None and start == (saves.persistent, saves.start_method) else GAP_MS

    return Simulated(
        {NATIVE_ONLY: linear(300, most)}, lambda _: 1000.0, gap_ms=gap_ms, current=current, epoch_steps=625
    )


def test_workers_are_kept() -> None:
    kept = replace(SPAWNED, persistent=True)
    answer = Tuned(long_epochs(kept)).answer()
    assert (answer.grade, answer.chosen) == (CERTIFIED, kept)
    assert answer.neighbour == replace(kept, makers=3)
    assert max(tried(answer)) == 4
    assert "the time between epochs matters: workers are kept" in answer.notes


def test_workers_are_forked_if_they_are_slow_to_read_again() -> None:
    forked = replace(SPAWNED, persistent=True, start_method="fork")
    answer = Tuned(long_epochs(forked)).answer()
    assert (answer.grade, answer.chosen) == (CERTIFIED, forked)


def test_settings_that_were_doubtful_before() -> None:
    """The confirmation does not contradict the search: no settings were fed in it."""
    kept = replace(SPAWNED, persistent=True)
    case = long_epochs(kept, most=960.0)
    answer = Tuned(planted(case, dict.fromkeys(range(4, 9), (4.0, DOUBTFUL)), {4: 4.0}), minutes=5).answer()
    assert (answer.grade, answer.chosen) == (CERTIFIED, kept)


def test_what_is_missing_is_time_between_epochs() -> None:
    answer = Tuned(long_epochs(None, replace(SPAWNED, persistent=True, start_method=None))).answer()
    assert answer.grade == NOT_FED
    assert answer.missing == "The loader is fast enough within an epoch, but 13.0 % of the time is lost between epochs."
