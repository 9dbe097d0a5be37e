"""The number of weight updates in a run. For an iterable dataset it becomes known only during the run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RunLength:
    """The number of updates in a run, as far as it is known.

    It is exact if the length of an epoch is known. Otherwise ``epoch_steps`` is an estimate: in the first epoch the dataset's
    ``__len__``, doubled each time the epoch is longer; after that, the length of the previous epoch. So a schedule that ends at 0
    reaches 0 at the end of the run, not before.

    Attributes:
        epochs, steps: of the run; one of the two is None.
        accumulate: steps per update.
        epoch_steps: steps per epoch; None if unknown.
        exact: whether ``epoch_steps`` is exact.
        epochs_done, steps_done, updates_done: the numbers when `epoch_steps` was last counted.
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
        """The number of updates in the whole run, as known after ``update`` updates; None if unknown."""
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
        """The number of steps in the whole run, as far as it is known; None if unknown."""
        if self.steps is not None or self.epoch_steps is None:
            return self.steps
        assert self.epochs is not None
        return self.steps_done + (self.epochs - self.epochs_done) * self.epoch_steps

    def end_epoch(self, *, epochs: int, steps: int, updates: int) -> None:
        """Records the end of an epoch. The arguments are totals of the whole run."""
        self.resume(epoch_steps=steps - self.steps_done, epochs=epochs, steps=steps, updates=updates)

    def resume(self, *, epoch_steps: int, epochs: int, steps: int, updates: int) -> None:
        """Continues from these totals of the whole run, with ``epoch_steps`` steps per epoch."""
        self.epoch_steps = epoch_steps
        self.epochs_done, self.steps_done, self.updates_done = epochs, steps, updates

    def _updates(self, steps: int) -> int:
        return -(-steps // self.accumulate)
