"""Measures a user's step with a loader of certain settings, in this process: a window of steps, and the probes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from loaderlab import metrics
from loaderlab.attach.passes import num_samples
from loaderlab.attach.torch_terms import LEAST_WARMUP
from loaderlab.config import UserError
from loaderlab.device.base import Device
from loaderlab.device.resolve import resolve_device
from loaderlab.diagnosis.figures import NO_PROBES, LoopRecord, evidence_of, figures_of
from loaderlab.meter import resources
from loaderlab.meter.phases import StepMeter
from loaderlab.system.causes import reason
from loaderlab.system.machine import available_cores
from loaderlab.system.processes import process_age_s
from loaderlab.tuning.settings import FORM
from loaderlab.tuning.trial import LEAST_STEPS, Measured, Trial, TrialFailed, smaller_batch, too_short
from loaderlab.tuning.user_loader import LoaderSource, ends_itself
from loaderlab.tuning.user_probes import KEPT, counted, end, loader_alone, probed

LONGEST_S = 60.0  # of a window that has not yet enough steps
MORE_THAN_CORES = "This DataLoader will create"  # a warning of torch for each candidate with more workers than cores
EARLY_STEP = 3  # after which memory is read; the queue may fill meanwhile, so a full queue is left out after it
Step = Callable[[Any], object]


@dataclass(frozen=True)
class Program:
    """What the user passed to `loaderlab.tune`.

    Attributes:
        step: does one whole step with a batch.
        device: name of the device where it runs: ``cuda:0``.
        max_makers: largest number of workers; None: no limit by the user.
    """

    source: LoaderSource
    step: Step
    device: str
    max_makers: int | None = None


def measure(program: Program, trial: Trial, *, own_process: bool) -> Measured:
    """The result of a trial.

    Args:
        own_process: this process runs this trial only, so the start of the process counts.

    Raises:
        TrialFailed: too few steps could be measured, or the loader cannot be built with these settings.
        UserError: an epoch has too few steps with the settings now.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MORE_THAN_CORES, UserWarning)
        return _measured(program, trial, own_process=own_process)


def _measured(program: Program, trial: Trial, *, own_process: bool) -> Measured:
    began = time.perf_counter()
    device = resolve_device(program.device)

    def build(epoch_steps: int | None = None) -> Iterable[Any]:
        try:
            return program.source.build(trial.candidate, epoch_steps)
        except UserError as error:  # the checks before the first trial tried no more than one worker
            raise TrialFailed(f"{error}".removesuffix(FORM).rstrip(". ").splitlines()[0]) from None

    run = _Run(build(trial.epoch_steps), program.step, device, trial)
    try:
        run.steps()
    except TooShort as error:
        if trial.candidate == program.source.current and not trial.round:
            raise
        raise TrialFailed(reason(error)) from None  # each worker leaves out its last, incomplete batch
    finally:
        run.close()
    measured = run.measured()
    start_s = run.started_age_s if own_process else run.started - began
    if trial.alone:
        alone, cores = loader_alone(build, max(1, trial.candidate.makers))
        measured = replace(measured, loader_alone=alone, loader_cores=cores)
    if trial.probes:
        measured = probed(measured, build, program.step, device, run.kept)
    total_s = process_age_s() if own_process else time.perf_counter() - began
    return replace(measured, start_s=start_s, torch_threads=torch.get_num_threads(), total_s=total_s)


class _Run:
    """The loop of a trial.

    Attributes:
        kept: the first batches.
        started, started_age_s: when the first step began, and the age of this process then.
    """

    def __init__(self, loader: Iterable[Any], step: Step, device: Device, trial: Trial) -> None:
        self._loader, self._step, self._device, self._trial = loader, step, device, trial
        self._parallel = max(1, trial.candidate.makers)
        self._warmup = EARLY_STEP + max(LEAST_WARMUP, trial.candidate.batches_ahead)
        self._meter = StepMeter(device, counters=resources.counters)
        self._stops = not ends_itself(loader, trial.epoch_steps)
        self._batches: Iterator[Any] | None = None
        self._others = resources.child_pids()  # processes that are no workers of this loader
        self._epochs = self._samples = self._measured_steps = 0
        self._began = self._began_cpu_s = 0.0
        self._cpu_s = self._worker_mib = self._host_mib = None  # type: float | None
        self.kept: list[Any] = []
        self.started = self.started_age_s = 0.0

    def steps(self) -> None:
        """Runs epochs until the window is long enough.

        Raises:
            TooShort: an epoch has too few steps.
        """
        while True:
            before = self._meter.num_steps
            if self._epoch():
                return
            number = self._meter.num_steps - before
            if number < LEAST_STEPS and (self._trial.epoch_steps is None or number < self._trial.epoch_steps):
                raise TooShort(number, num_samples(self.kept[0]) if self.kept else 0)

    def close(self) -> None:
        """Ends the workers."""
        end(self._loader, self._batches)
        self._batches = None

    def _epoch(self) -> bool:
        """Runs an epoch; returns whether the window has ended."""
        meter = self._meter
        meter.begin_epoch(self._epochs)
        self._epochs += 1
        meter.next_step()
        self._batches = iter(self._loader)
        position = 0
        while True:
            try:
                batch = next(self._batches)
            except StopIteration:
                break
            self._take(batch, position)
            position += 1
            if self._is_over():
                meter.next_step()
                meter.end_epoch(exhausted=False)
                return True
            meter.next_step()
            if self._stops and position == self._trial.epoch_steps:
                self._batches = None  # its workers end now, as at the end of an epoch
                break
        meter.end_epoch(exhausted=True)
        return False

    def _take(self, batch: Any, position: int) -> None:
        """Does the step with a batch that has just arrived."""
        meter = self._meter
        meter.mark()  # wait
        meter.mark()  # transfer is a part of the step
        if not meter.num_steps:
            self.started, self.started_age_s = time.perf_counter(), process_age_s()
        self._step(batch)
        meter.mark()
        meter.mark()
        number = counted(batch)
        meter.end_step(number)
        if len(self.kept) < KEPT:
            self.kept.append(batch)
        if meter.num_steps == EARLY_STEP:
            self._read_counters()
        elif meter.num_steps > EARLY_STEP:
            self._samples += number
            self._measured_steps += meter.num_steps > self._warmup and position >= self._parallel
        if meter.num_steps == self._warmup:
            self._began = time.perf_counter()

    def _read_counters(self) -> None:
        """Reads memory and CPU time: about 10 ms per process, in a step that is not measured."""
        self._read_memory()
        self._began_cpu_s = resources.cpu_seconds()

    def _read_memory(self) -> None:
        workers = resources.child_pids() - self._others
        self._worker_mib = resources.mean_memory_mib(workers) or self._worker_mib
        host = resources.proportional_memory_mib()
        self._host_mib = self._host_mib if host is None else max(host, self._host_mib or 0.0)

    def _is_over(self) -> bool:
        """Whether the window is long enough, and contains the end of an epoch if it shall."""
        if self._meter.num_steps <= self._warmup:
            return False
        passed = time.perf_counter() - self._began
        crossed = self._trial.epoch_steps is None or self._epochs > 1
        if (
            not (self._measured_steps >= LEAST_STEPS and crossed and passed >= self._trial.seconds)
            and passed < LONGEST_S
        ):
            return False
        self._device.synchronize()
        self._cpu_s = resources.cpu_seconds() - self._began_cpu_s
        self._read_memory()
        return True

    def measured(self) -> Measured:
        """The result.

        Raises:
            TrialFailed: there are too few measured steps.
        """
        loop = self._loop()
        if len(loop.window) < LEAST_STEPS:
            raise TrialFailed(
                f"only {len(loop.window)} steps could be measured in {LONGEST_S:.0f} s; at least {LEAST_STEPS} are needed"
            )
        evidence, figures = evidence_of(loop, NO_PROBES), figures_of(loop, NO_PROBES, None)
        assert evidence.rate is not None
        return Measured(
            rate=evidence.rate,
            starved_pct=evidence.starved_pct,
            starved_interval=evidence.starved_interval,
            step_ms=figures[metrics.STEP_MS],
            num_steps=evidence.num_steps,
            gap_ms=figures.get(metrics.EPOCH_GAP_MS),
            late_steps=evidence.late_steps,
            cpu_s_per_sample=self._cpu_s / self._samples if self._cpu_s is not None and self._samples else None,
            worker_mib=self._worker_mib,
            host_mib=self._host_mib,
        )

    def _loop(self) -> LoopRecord:
        meter = self._meter
        meter.settle()
        return LoopRecord(
            steps=meter.settled,
            warmup_steps=self._warmup,
            parallel=self._parallel,
            lookahead=self._trial.candidate.batches_ahead,
            epochs_ns=meter.epochs_ns,
            epoch_ends_ns=meter.epoch_ends_ns,
            used=meter.used,
            cores=available_cores(),
            phases_marked=False,
            delivery_marked=False,
            one_loader=False,  # the whole window counts, also if the starved share changed in it
        )


class TooShort(UserError):
    """An epoch is too short to measure."""

    def __init__(self, steps: int, batch_size: int) -> None:
        """``batch_size``: 0 if the number of samples does not show."""
        smaller = smaller_batch(steps * batch_size)
        example = f", such as batch_size={smaller}," if smaller else ""
        super().__init__(f"loader: {too_short(steps)}. Use a smaller batch size{example} or more data")
