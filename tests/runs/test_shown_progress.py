"""The note next to the progress bar."""

from __future__ import annotations

from loaderlab.runs.shown_progress import ShownProgress
from loaderlab.system.terminal import Bar
from tests.training.test_emulated import BATCH_SIZE, Played


class Notes(Bar):
    """Keeps what it shows, at every tenth step."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def due(self, done: int) -> bool:
        return done % 10 == 0

    def update(self, done: int, note: str = "") -> None:
        self.notes.append(note)


def test_the_rate_is_never_above_the_accelerators() -> None:
    """The host queues the first steps of an epoch within no time at all, and the device's times arrive 63 steps late."""
    notes = Notes()
    Played(sizes=80 * [BATCH_SIZE], on_step=ShownProgress(notes, ramp=1).update)
    rate = f"{1e3 * BATCH_SIZE / 18:,.0f} samples/s"
    rates = [float(note.split()[2].replace(",", "")) for note in notes.notes if "samples/s" in note]
    assert rates
    assert max(rates) <= 1.25 * 1e3 * BATCH_SIZE / 18  # the host queues steps in pairs, here 10 in the time of 8
    assert notes.notes[-1] == f"epoch 1, {rate}, wait 0 %, starved 0 %"
    assert not any("starved" in note for note in notes.notes[:6])


def test_waits_are_shown() -> None:
    notes = Notes()
    Played(sizes=80 * [BATCH_SIZE], batch_ms=36, on_step=ShownProgress(notes, ramp=1).update)
    assert notes.notes[-1] == f"epoch 1, {1e3 * BATCH_SIZE / 36:,.0f} samples/s, wait 100 %, starved 50 %"
