"""How many updates of the weights a run is to have, which an iterable dataset may know only as it goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RunLength:
    """The number of updates of a run, as far as it is known.

    Exact where the length of an epoch is known. Otherwise ``epoch_steps`` is a guess: in the first epoch what the dataset says
    of itself, doubled as often as the epoch turns out to be longer, and from then on the length of the epoch before. So a
    schedule that ends at 0 gets there at the end of the run, not before.

    Attributes:
        epochs, steps: of the run; one of the two is None.
        accumulate: steps of an update.
        epoch_steps: steps of an epoch; None where nobody says.
        exact: it is sure.
        epochs_done, steps_done, updates_done: when `epoch_steps` was last counted.
    """

    epochs: int | None
    steps: int | None
    accumulate: int
    epoch_steps: int | None
    exact: bool = True
    epochs_done: int = 0
    steps_done: int = 0
    updates_done: int = 0

    def num_updates(self, update: int = 0) -> int | None:
        """Updates of the whole run, as far as is known when so many are done; None where nobody says."""
        per_epoch = self.epoch_steps
        if per_epoch is not None and not self.exact:
            per_epoch = max(1, per_epoch)
            while update - self.updates_done >= self._updates(per_epoch):
                per_epoch *= 2
        if self.steps is not None:
            left = self.steps - self.steps_done
            whole, rest = divmod(left, per_epoch) if per_epoch else (0, left)
            return self.updates_done + whole * self._updates(per_epoch or 0) + self._updates(rest)
        assert self.epochs is not None
        if per_epoch is None:
            return None
        return self.updates_done + (self.epochs - self.epochs_done) * self._updates(per_epoch)

    def num_steps(self) -> int | None:
        """Steps of the whole run, as far as is known; None where nobody says."""
        if self.steps is not None or self.epoch_steps is None:
            return self.steps
        assert self.epochs is not None
        return self.steps_done + (self.epochs - self.epochs_done) * self.epoch_steps

    def end_epoch(self, *, epochs: int, steps: int, updates: int) -> None:
        """Counts the epoch that has ended: the numbers are those done in all."""
        self.resume(epoch_steps=steps - self.steps_done, epochs=epochs, steps=steps, updates=updates)

    def resume(self, *, epoch_steps: int, epochs: int, steps: int, updates: int) -> None:
        """Goes on from numbers that are done in all, with so many steps an epoch."""
        self.epoch_steps = epoch_steps
        self.epochs_done, self.steps_done, self.updates_done = epochs, steps, updates

    def _updates(self, steps: int) -> int:
        return -(-steps // self.accumulate)
