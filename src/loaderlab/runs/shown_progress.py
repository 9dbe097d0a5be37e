"""The note next to the progress bar of the training."""

from __future__ import annotations

from loaderlab.meter.phases import StepMeter
from loaderlab.meter.summary import measured
from loaderlab.system.terminal import Bar
from loaderlab.training.step import Progress

AHEAD = 8  # steps at the start of an epoch that a host may queue faster than its device can do them


class ShownProgress:
    """Epoch, loss, rate, wait and starved share of the steps since the last redraw, without the evaluation.

    As in the final results, the first steps of an epoch are left out. A device's own times arrive some steps late; until then the
    rate is the host's.

    Args:
        bar: the progress bar.
        ramp: steps at the start of an epoch that are left out; see `loaderlab.meter.summary.measured`.
    """

    def __init__(self, bar: Bar, ramp: int) -> None:
        self._bar, self._ramp = bar, ramp
        self._num_shown = self._num_shown_settled = 0

    def update(self, progress: Progress, meter: StepMeter) -> None:
        """Redraws the bar if it is time to."""
        if not self._bar.due(progress.step):
            return
        note = f"epoch {progress.epoch + 1}"
        if progress.learning_rates:  # otherwise nothing is learned
            note += f", loss {meter.last_loss:.4f}"
        self._bar.update(progress.step, note + self._speed(meter))

    def _speed(self, meter: StepMeter) -> str:
        """The rate and the shares; empty if no step can be shown yet."""
        recent, settled = meter.steps[self._num_shown :], meter.settled[self._num_shown_settled :]
        self._num_shown, self._num_shown_settled = len(meter.steps), meter.num_settled
        steps = measured(settled, 0, self._ramp)
        lengths_ms = [step.length_ms for step in steps]
        if not steps:
            steps = measured(recent, 0, self._ramp + AHEAD)
            lengths_ms = [step.host_ns / 1e6 for step in steps]
        length_ms, host_ns = sum(lengths_ms), sum(step.host_ns for step in steps)
        if not length_ms or not host_ns:
            return ""
        rate = 1e3 * sum(step.num_samples for step in steps) / length_ms
        text = f", {rate:,.0f} samples/s, wait {100 * sum(step.host[0] for step in steps) / host_ns:.0f} %"
        if settled:
            text += f", starved {100 * sum(step.starved_ms for step in steps) / length_ms:.0f} %"
        return text
