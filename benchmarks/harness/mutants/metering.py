"""Mutants of the meter and of its arithmetic."""

from __future__ import annotations

from benchmarks.harness.mutants.mutant import Mutant

PHASES, STEP, SUMMARY = "meter/phases.py", "meter/step.py", "meter/summary.py"
MUTANTS = [
    Mutant(
        "meter_phase_index_drifts",
        PHASES,
        "phase = (len(self._times) - 1) % 6",
        "phase = (len(self._times) - 1) % 5",
        "from the second step on, a mark is recorded as another phase",
        ("agreement",),
    ),
    Mutant(
        "meter_loss_after_last_mark",
        PHASES,
        """            if loss is not None:
                self._ring.loss(loss)
        else:
            self._losses.append(float("nan") if loss is None else loss.item())
        self.mark()
""",
        """            pass
        else:
            self._losses.append(float("nan") if loss is None else loss.item())
        self.mark()
        if self._ring and loss is not None:
            self._ring.loss(loss)
""",
        "the copy of the loss is queued after the event that says that it is done",
        ("agreement",),
    ),
    Mutant(
        "meter_never_settles",
        PHASES,
        "        self._name_phase(None)\n        self.settle()\n",
        "        self._name_phase(None)\n",
        "the drain at the end of an epoch is omitted",
        ("agreement",),
    ),
    Mutant(
        "meter_epoch_ends_too_soon",
        PHASES,
        "(self._epoch_began, self._clock() if exhausted or self._ring else now)",
        "(self._epoch_began, now)",
        "an epoch ends before the device has finished its work",
        ("agreement",),
    ),
    Mutant(
        "meter_counts_its_readings",
        PHASES,
        "        self._aside_ns += self._epoch_aside_ns\n",
        "",
        "the meter's own readings count as time of the loop",
        ("ring",),
    ),
    Mutant(
        "meter_numbers_steps_anew",
        PHASES,
        "self._record(before + index, index)",
        "self._record(index, index)",
        "the steps of each epoch are numbered from 0",
        ("agreement",),
    ),
    Mutant(
        "meter_overwrites_epochs",
        PHASES,
        "before = len(self._steps) - self._num_built  # steps of earlier epochs",
        "before = 0",
        "the steps of an epoch replace those of the one before",
        ("agreement",),
    ),
    Mutant(
        "meter_times_of_another_step",
        PHASES,
        "timed = self._settled[number]\n                self._steps",
        "timed = self._settled[number - 1]\n                self._steps",
        "a step has the device times of the step before it",
        ("agreement",),
    ),
    Mutant(
        "meter_sync_does_not_wait",
        PHASES,
        """            self._ring.mark(phase)
        elif self._sync:
            self._sync.synchronize()
""",
        "            self._ring.mark(phase)\n",
        "with `measure.sync`, a mark does not wait for the device",
        ("ring",),
    ),
    Mutant(
        "starved_is_the_maximum",
        STEP,
        "return min(self.device.idle, self.host[0] / 1e6) + self.device.delivery",
        "return max(self.device.idle, self.host[0] / 1e6) + self.device.delivery",
        "the larger of gap and wait counts as starved",
        ("agreement",),
    ),
    Mutant(
        "starved_by_work_after_the_step",
        "device/step_times.py",
        "return self.gap - self.trailing",
        "return self.gap",
        "work that is queued after a step counts as starved, up to the wait",
        ("agreement",),
    ),
    Mutant(
        "meter_asks_after_the_wait",
        PHASES,
        """            if self._ring:
                self._ring.ask()
            self._name_phase("wait" if self._annotate else None)

    def mark(self) -> None:
        \"\"\"Marks the end of the current phase.\"\"\"
""",
        """            self._name_phase("wait" if self._annotate else None)

    def mark(self) -> None:
        \"\"\"Marks the end of the current phase.\"\"\"
        if self._ring and (len(self._times) - 1) % 6 == 0:
            self._ring.ask()
""",
        "the request of a batch is recorded when it has arrived",
        ("agreement",),
    ),
    Mutant(
        "starved_is_the_wait",
        STEP,
        "return min(self.device.idle, self.host[0] / 1e6) + self.device.delivery",
        "return self.host[0] / 1e6 + self.device.delivery",
        "each wait of the host counts as starved, although the device works",
        ("agreement",),
    ),
    Mutant(
        "starved_is_the_gap",
        STEP,
        "return min(self.device.idle, self.host[0] / 1e6) + self.device.delivery",
        "return self.device.gap + self.device.delivery",
        "each gap of the device counts as starved, although the host does not wait",
        ("ring",),
    ),
    Mutant(
        "starved_without_delivery",
        STEP,
        "self.host[0] / 1e6) + self.device.delivery",
        "self.host[0] / 1e6)",
        "the delivery is left out",
        ("agreement",),
    ),
    Mutant(
        "starved_delivery_by_the_host",
        STEP,
        "self.host[0] / 1e6) + self.device.delivery",
        "self.host[0] / 1e6) + self.host[1] / 1e6",
        "the delivery is the host's time for it, not the device's",
        ("agreement",),
    ),
    Mutant(
        "starved_in_wrong_unit",
        STEP,
        "min(self.device.idle, self.host[0] / 1e6)",
        "min(self.device.idle, self.host[0] / 1e9)",
        "the wait is in seconds and the gap in milliseconds",
        ("ring",),
    ),
    Mutant(
        "step_length_by_the_host",
        STEP,
        "return self.host_ns / 1e6 if self.device is None else self.device.length",
        "return self.host_ns / 1e6",
        "the step time is the host's, which runs ahead of the device",
        ("agreement",),
    ),
    Mutant(
        "step_length_without_gap",
        "device/step_times.py",
        "return self.gap + self.delivery + self.forward",
        "return self.delivery + self.forward",
        "the step time leaves out the gap",
        ("agreement",),
    ),
    Mutant(
        "summary_mean_of_shares",
        SUMMARY,
        "metrics.STARVED_PCT: 100 * float(starved.sum() / step_ms.sum())",
        "metrics.STARVED_PCT: 100 * float((starved / step_ms).mean())",
        "the starved share is the mean of the steps' shares, not the share of the time",
        ("agreement",),
    ),
    Mutant(
        "summary_rate_by_the_host",
        SUMMARY,
        "sum(step.num_samples for step in steps) / float(step_ms.sum())",
        "sum(step.num_samples for step in steps) / float(host_step.sum())",
        "the rate is computed with the host's time",
        ("agreement",),
    ),
    Mutant(
        "summary_rate_is_a_mean",
        SUMMARY,
        "1e3 * sum(step.num_samples for step in steps) / float(step_ms.sum())",
        "1e3 * float(np.mean([step.num_samples for step in steps] / step_ms))",
        "the rate is the mean of the steps' rates, not samples by time",
        ("agreement",),
    ),
    Mutant(
        "summary_wait_is_the_gap",
        SUMMARY,
        "wait = np.minimum([t.idle for t in timed], host[:, 0])",
        "wait = gap",
        "`time/wait_ms` includes gaps in which the host did not wait",
        ("ring",),
    ),
    Mutant(
        "summary_host_delivery",
        SUMMARY,
        "        other = gap - wait\n",
        "        other = gap - wait\n        delivery = host[:, 1]\n",
        "`starvation/delivery_pct` is the host's time for the delivery",
        ("agreement",),
    ),
    Mutant(
        "summary_includes_first_waits",
        SUMMARY,
        "step.position >= ramp and",
        "step.position >= 0 and",
        "the wait for the first batch of an epoch is part of the measured window",
        ("agreement",),
    ),
]
