"""The second stage of a run: the loop, with its meter, its progress on the terminal, its losses and checkpoints."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from loaderlab import metrics
from loaderlab.config import refuse
from loaderlab.diagnosis.evidence import LEAST_STEPS
from loaderlab.diagnosis.figures import LoopRecord
from loaderlab.meter import resources
from loaderlab.meter.measured_time import MeasuredTime
from loaderlab.meter.peaks import PeakMemory
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.profile import BEYOND, StepProfiler
from loaderlab.meter.sampler import DeviceSample, DeviceSampler
from loaderlab.meter.step import Step
from loaderlab.meter.step_rows import StepRows
from loaderlab.runs.context import RunContext
from loaderlab.runs.line_profile import line_profile
from loaderlab.runs.loader_set import LoaderSet
from loaderlab.runs.own_metrics import OwnMetrics
from loaderlab.runs.prepare import Prepared
from loaderlab.runs.rank_process import ROWS, RankInfo, write_info
from loaderlab.runs.sample_counts import FalseLengths
from loaderlab.runs.shown_progress import ShownProgress
from loaderlab.system.machine import rank_cores
from loaderlab.system.processes import process_age_s
from loaderlab.training import checkpoint, optimizers
from loaderlab.training.loop import Observers, train
from loaderlab.training.step import ModelStep, Progress


@dataclass(frozen=True)
class Trained:
    """The result of the loop, also if it was interrupted.

    Attributes:
        epoch, step: finished in total, including those before a resume.
        startup_s: from the start of the process to the start of the loop.
        validation: the metrics of the last evaluation; empty if there was none.
        measured: the metrics that the user's own step returned, the last that were recorded.
        loop: the record of its steps.
        untimed: the steps after them whose times on the device are lost, because the device failed.
    """

    epoch: int
    step: int
    startup_s: float
    validation: Mapping[str, float]
    measured: Mapping[str, float]
    loop: LoopRecord
    untimed: list[Step]


def _rows_file(context: RunContext, prepared: Prepared) -> StepRows | None:
    """The file that gets this rank's steps, which its agent reads if the rank is killed; None with one process."""
    group, folder = context.group, context.rank_folder
    if group is None or folder is None:
        return None
    path = folder / ROWS
    ranks = group.ranks
    info = RankInfo(
        ranks.rank,
        ranks.world_size,
        ranks.node,
        os.getpid(),
        context.tracked.run_id,
        str(path),
        prepared.settings.warmup_steps,
        prepared.parts.loader.parallel,
        prepared.device.capabilities.emulated,
    )
    write_info(folder, info)
    return StepRows(path, context.terminal.warn)


class MeasuredLoop:
    """Runs the loop once. `result` can be called at any time: an interrupted `run` keeps its measurements."""

    def __init__(self, context: RunContext, prepared: Prepared, loaders: LoaderSet) -> None:
        self._context, self._prepared, self._loaders = context, prepared, loaders
        config = context.config
        self._rows = _rows_file(context, prepared)
        self._meter = StepMeter(prepared.device, counters=resources.counters, sync=config.measure.sync, rows=self._rows)
        loader = prepared.parts.loader
        self._memory = PeakMemory(prepared.device, workers=lambda: loader.worker_pids)
        self._startup_s = 0.0
        self._num_logged = 0  # steps whose loss is recorded
        self._measured = OwnMetrics(config.tracking.log_every)
        self._saved_at = time.monotonic()
        self._device_samples: list[DeviceSample] = []
        self._lengths = FalseLengths(prepared.spec, prepared.parts, context.terminal)
        self._time = None
        if config.measure.seconds is not None:
            self._time = MeasuredTime(prepared.settings.warmup_steps, prepared.parts.loader.parallel)
        self._profiler = self._plan_profile() if config.measure.profile and context.ranks.is_first else None
        self._lines = line_profile(context, prepared)

    def run(self) -> None:
        """Trains as configured.

        Raises:
            UserError, KeyboardInterrupt, torch.OutOfMemoryError: the error that ended the loop early.
        """
        config, prepared = self._context.config, self._prepared
        self._startup_s = process_age_s() - prepared.parity_s
        with self._sampling_device(), self._context.terminal.progress("training", self._total) as bar:
            shown_progress = ShownProgress(bar, prepared.parts.loader.parallel)

            def on_step(progress: Progress, meter: StepMeter) -> None:
                self._on_step(meter)
                shown_progress.update(progress, meter)

            def on_epoch(progress: Progress, meter: StepMeter) -> None:
                self._on_epoch(progress, meter)
                bar.set_total(self._total)

            try:
                train(
                    prepared.parts,
                    self._meter,
                    prepared.progress,
                    Observers(on_step, on_epoch),
                    epochs=config.num_epochs,
                    steps=config.steps,
                    accumulate=config.accumulate,
                    enough=None if config.measure.seconds is None else self._is_enough,
                )
            except BaseException:
                with contextlib.suppress(RuntimeError):  # a failed device gives no times
                    self._meter.settle()
                if self._profiler is not None:
                    with contextlib.suppress(RuntimeError):  # and maybe no trace
                        self._profiler.close()
                raise
            else:
                if self._profiler is not None:
                    self._profiler.close()
            finally:
                if self._lines is not None:
                    self._lines.close()
                self._log_losses()
                with contextlib.suppress(RuntimeError):  # a failed device has no numbers either
                    self._measured.record(self._context.tracked)
                self._lengths.report()
        if self._rows is not None:
            self._rows.close()
        if self._profiler is not None and not self._profiler.path.exists():
            steps = self._profiler.num_steps
            self._context.terminal.warn(f"measure.profile=true: no epoch had {steps} steps left for a trace")

    def result(self) -> Trained:
        """The result so far."""
        progress, meter, config = self._prepared.progress, self._meter, self._context.config
        steps = meter.settled
        return Trained(
            epoch=progress.epoch,
            step=progress.step,
            startup_s=self._startup_s,
            validation=dict(progress.validation),
            measured=dict(self._measured.last),
            loop=LoopRecord(
                steps=steps,
                warmup_steps=self._prepared.settings.warmup_steps,
                parallel=self._prepared.parts.loader.parallel,
                lookahead=self._prepared.parts.loader.lookahead,
                epochs_ns=meter.epochs_ns,
                epoch_ends_ns=meter.epoch_ends_ns,
                used=meter.used,
                cores=rank_cores(),
                train_s=meter.epochs_s or None,  # without a complete epoch there is no training time
                device_samples=self._device_samples,
                own_pids=resources.own_pids(),
                host_peak_mib=self._memory.host_mib,
                worker_mib=self._memory.worker_mib,
                device_peak_mib=self._memory.device_mib,
                losses=[step.loss for step in steps[-config.tracking.log_every :]] if self._learns else [],
                profiled=None if self._lines is None else self._lines.result(steps),
            ),
            untimed=meter.steps[meter.num_settled :],
        )

    @contextlib.contextmanager
    def _sampling_device(self) -> Iterator[None]:
        """Samples the GPU with NVML during the loop, if there is a GPU."""
        uuid = self._prepared.device.nvml_uuid
        if uuid is None or not self._context.config.measure.device_samples:
            yield
            return
        with DeviceSampler(uuid) as sampler:
            try:
                yield
            finally:
                self._device_samples = sampler.stop()
        if sampler.problem:
            self._context.terminal.warn(f"no GPU utilisation, power and clocks: {sampler.problem}")

    def _plan_profile(self) -> StepProfiler | None:
        """The profiler, or None if an epoch is too short. A trace fits in one epoch: an evaluation is not part of a step."""
        config, per_epoch = self._context.config, self._epoch_steps
        measure = config.measure
        num_steps = measure.profile_steps if per_epoch is None else min(measure.profile_steps, per_epoch - BEYOND - 1)
        if num_steps < 1:
            reason = f"an epoch has {per_epoch} steps, and a trace needs at least {BEYOND + 2}"
            smaller = f"batch_size={max(1, config.batch_size // 4)}"
            self._context.terminal.warn(str(refuse("measure.profile", "true", reason, smaller)))
            return None
        folder, warmup = self._context.folder, self._prepared.settings.warmup_steps
        return StepProfiler(folder, num_steps, measure.profile_mib, self._prepared.device, warmup)

    def _fits_epoch(self, profiler: StepProfiler, meter: StepMeter) -> bool:
        """Whether a profile can begin here: after the warm-up, and with enough steps left in this epoch."""
        per_epoch, warmup = self._epoch_steps, self._prepared.settings.warmup_steps
        after_warmup = meter.num_steps >= warmup or (per_epoch is not None and per_epoch - BEYOND - 1 < warmup)
        return after_warmup and (per_epoch is None or meter.position + profiler.num_steps <= per_epoch)

    def _on_step(self, meter: StepMeter) -> None:
        if isinstance(step := self._prepared.parts.step, ModelStep):
            self._measured.add(step.task.measured, self._prepared.progress.step)
        profiler, lines = self._profiler, self._lines
        if lines is not None:
            lines.on_step(meter)
        if profiler is not None and (profiler.running or self._fits_epoch(profiler, meter)):
            profiler.step(meter)
        if self._time is not None:
            disturbed = (profiler is not None and profiler.running) or (
                lines is not None and lines.disturbs(meter.num_steps - 1)
            )
            self._time.end_step(meter.num_steps, meter.position, disturbed=disturbed)
        if meter.num_steps <= 2:  # later steps have no readings, which take about 10 ms per process
            with meter.aside():
                self._memory.after_step(meter.num_steps)

    def _is_enough(self) -> bool:
        """Whether the measured window has ``measure.seconds``, and enough steps for a verdict."""
        seconds, measured = self._context.config.measure.seconds, self._time
        assert seconds is not None
        assert measured is not None
        return measured.seconds >= seconds and measured.num_steps >= LEAST_STEPS

    @property
    def _total(self) -> int | None:
        """Number of steps of the run, for the progress bar; None if it is not known."""
        return None if self._time is not None else self._prepared.length.num_steps()

    def _check_measurable(self, meter: StepMeter) -> None:
        """Raises:
        UserError: the run would never end, because no step of an epoch as short as this one is measured.
        """
        measure, ramp = self._context.config.measure, self._prepared.parts.loader.parallel
        if self._time is None or self._is_enough() or meter.position > ramp:
            return
        reason = f"an epoch has {meter.position} steps, and its first {ramp} are never measured"
        if measure.epoch_steps is not None and measure.epoch_steps <= ramp:
            raise refuse(
                "measure.epoch_steps", measure.epoch_steps, reason, f"measure.epoch_steps={ramp + 2 * LEAST_STEPS}"
            )
        raise refuse(
            "measure.seconds",
            f"{measure.seconds:g}",
            reason,
            "a smaller batch_size, or fewer workers",
            is_example=False,
        )

    def _on_epoch(self, progress: Progress, meter: StepMeter) -> None:
        """Writes the buffered metrics, reads memory and saves a checkpoint if one is due, all outside the measured windows."""
        tracked = self._context.tracked
        self._check_measurable(meter)
        self._end_epoch(progress)
        for name, value in progress.validation.items():
            tracked.metric(name, value, progress.step)
        self._loaders.report_skipped()
        self._log_losses(together=True)
        if self._context.config.has_own_step:
            self._measured.record(tracked, group=self._context.group)
        tracked.flush()
        self._memory.after_epoch(meter.num_steps)
        config = self._context.config
        every = config.checkpoint.every_minutes
        step = self._prepared.parts.step
        due = every is not None and time.monotonic() - self._saved_at >= 60 * every
        if due and isinstance(step, ModelStep) and self._context.ranks.is_first:
            world_size = self._context.ranks.world_size
            checkpoint.save(self._context.checkpoint_path, step, progress, config, tracked.run_id, world_size)
            self._saved_at = time.monotonic()

    def _end_epoch(self, progress: Progress) -> None:
        """Corrects the schedule after the first epoch of an iterable dataset, when its number of samples is known."""
        parts, length = self._prepared.parts, self._prepared.length
        self._lengths.report()
        counted = parts.loader.counted
        # of several ranks, one has read its dataset to the end, and the others stop with it
        if not length.exact and counted is not None and (counted.whole or parts.group is not None):
            length.end_epoch(epochs=progress.epoch, steps=progress.step, updates=progress.updates)
            if isinstance(parts.step, ModelStep):
                optimizers.set_rate(parts.step.optimizer, parts.step.schedule)

    @property
    def _learns(self) -> bool:
        return isinstance(self._prepared.parts.step, ModelStep)

    @property
    def _epoch_steps(self) -> int | None:
        """The steps of an epoch; None if the loader does not know its length."""
        loader = self._prepared.parts.loader
        return loader.num_steps if loader.knows_length else None

    def _log_losses(self, *, together: bool = False) -> None:
        """Records the mean loss of every ``tracking.log_every`` steps, at the last of these steps.

        Args:
            together: all ranks call this now, so that the loss can be the mean over the ranks; otherwise it is this rank's.
        """
        if not self._learns:
            return
        every, progress = self._context.config.tracking.log_every, self._prepared.progress
        steps, num_settled = self._meter.steps, self._meter.num_settled
        before = progress.step - len(steps)  # steps of the run that was resumed
        losses = [entry.loss for entry in steps[self._num_logged : num_settled]]
        group = self._context.group
        if together and group is not None:
            losses = [total / group.ranks.world_size for total in group.sums(losses)]
        first = self._num_logged
        while self._num_logged < num_settled:
            block = losses[self._num_logged - first :][:every]
            self._num_logged += len(block)
            step = before + self._num_logged
            tracked = self._context.tracked
            tracked.metric(metrics.TRAIN_LOSS, float(np.mean(block)), step)
            tracked.metric(metrics.LEARNING_RATE, progress.learning_rates[self._num_logged - 1], step)
