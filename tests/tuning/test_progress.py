"""What the tuner prints while it runs."""

from __future__ import annotations

from loaderlab.system.terminal import Terminal
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.progress import Progress
from loaderlab.tuning.trial import Trial, TrialFailed


def test_a_trial_without_a_result() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    trial = Trial(Candidate(makers=2, prefetch=2), "the settings now", 2.0)
    progress.starts(trial, 60.0)
    progress.ended(trial, TrialFailed("only 12 steps could be measured"), None)
    progress.note("workers are kept")
    assert terminal.said == [
        "trial 1: 2 workers: the settings now (at most 60 s left)",
        "  no result: only 12 steps could be measured",
        "  note: workers are kept",
    ]
