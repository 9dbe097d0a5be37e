"""What the tuner prints while it runs: each trial, why it is made, what came out, and the time that is left."""

from __future__ import annotations

from loaderlab.system.terminal import Terminal
from loaderlab.tuning.trial import Measured, Trial, TrialFailed


class Progress:
    """Prints a line when a trial starts and one when it has ended. See `loaderlab.tuning.tuner.Watcher`."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._count = 0

    def starts(self, trial: Trial, left_s: float) -> None:
        """A trial starts; ``left_s``: until the time limit."""
        self._count += 1
        part = f"round {trial.round}" if trial.round else f"trial {self._count}"
        self._terminal.say(f"{part}: {trial.candidate.title}: {trial.reason} (at most {_duration(left_s)} left)")

    def ended(self, trial: Trial, result: Measured | TrialFailed, lost_pct: float | None) -> None:
        """A trial has ended. ``lost_pct``: the share of the time for which the device was starved; None if the trial died."""
        if isinstance(result, TrialFailed):
            self._terminal.say(f"  no result: {result}")
        else:
            self._terminal.say(f"  {result.rate:,.0f} samples/s, starved {lost_pct or 0.0:.1f} % of the time")

    def note(self, text: str) -> None:
        """The search has noticed something that the user should know."""
        self._terminal.say(f"  note: {text}")


def _duration(seconds: float) -> str:
    return f"{max(0.0, seconds):.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
