"""Measures your own training loop: the same metrics and verdict as `loaderlab train`, in three lines.

    from loaderlab import watch

    with watch(device) as meter:
        for inputs, targets in meter.batches(loader):
            inputs, targets = inputs.to(device), targets.to(device)
            meter.delivered()  # optional: see below
            ...
            meter.step(num_samples=len(targets))
    print(meter.verdict())

It measures the wait in the loader's ``next`` and, on CUDA, by events on the current stream, whether the device ran out of
work during this wait. Its limits: without `Watch.delivered` the copy to the device counts as work, not as starvation;
forward, backward and optimizer are one metric; there is no ceiling, so the headroom is computed from the starved share
alone; work on other streams than the current one is not measured.

`Watch.profile_workers` names the line of the loader that is slow.

In a job of several ranks, the ranks are compared when the block ends: the first rank prints the verdict by rank, and has it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeVar

import torch
from torch.utils.data import DataLoader

from loaderlab.attach.call_stacks import call_stack, user_lines
from loaderlab.attach.loop_ranks import LOOP, LoopRanks, OwnResults
from loaderlab.attach.loops import Loops, loop_of
from loaderlab.attach.notebook import LoopHtml
from loaderlab.attach.step_arguments import loss_scalar, sample_count
from loaderlab.attach.torch_terms import LEAST_WARMUP, in_terms, in_torch_terms, of_torch
from loaderlab.config import AUTO, TrackingConfig, UserError, store_root
from loaderlab.device.base import Device
from loaderlab.device.resolve import resolve_device
from loaderlab.diagnosis.evidence import Setup
from loaderlab.diagnosis.figures import NO_PROBES, LoopRecord, evidence_of, figures_of, profiled_of
from loaderlab.diagnosis.verdict import Verdict, judge
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.meter import resources
from loaderlab.meter.peaks import PeakMemory
from loaderlab.meter.phases import StepMeter, own_cost_ns
from loaderlab.meter.sampler import DeviceSample, DeviceSampler
from loaderlab.system.extras import require
from loaderlab.system.machine import rank_cores
from loaderlab.system.processes import error_line

if TYPE_CHECKING:
    from loaderlab.attach.profiled_loop import ProfiledLoop
    from loaderlab.attach.rank_results import RanksReading
    from loaderlab.lines.shares import SlowLines
    from loaderlab.tracking.tracked_run import TrackedRun

T = TypeVar("T")
NUM_LOSSES = 10  # the metric train/loss is the mean of the last ones
UNSEEN = "; copies to the device count as work: call meter.delivered() after .to(device) to measure them separately"


class Watch:
    """The meter of one loop, created by `watch`. A context manager: read the final results after leaving it."""

    def __init__(
        self,
        device: Device,
        warmup_steps: int | None,
        sync: bool,
        record: str | None,
        tracking: TrackingConfig,
        ranks: LoopRanks | None,
    ) -> None:
        self._device, self._warmup_steps = device, warmup_steps
        self._meter = StepMeter(device, counters=resources.counters, sync=sync)
        self._record, self._tracking, self._sync = record, tracking, sync
        self._loops = Loops(self._meter, self._after_stretch)
        self._ranks = ranks
        self._delivery_marked = False
        self._tracked: TrackedRun | None = None
        self._sampler: DeviceSampler | None = None
        self._device_samples: list[DeviceSample] = []
        self._memory = PeakMemory(device)
        self._profiled: ProfiledLoop | None = None

    def profile_workers(self, seconds: float = 5.0) -> None:
        """Also samples one worker of the loader, or the loader itself if it has no workers, for some seconds after the warm-up. Call it before
        the loop; `slow_lines` has the result, and the verdict its sentence.

        The steps of these seconds are not measured, since the profiler slows the worker down by about 2 %: the loop must be longer.

        Args:
            seconds: 0.5 to 60.

        Raises:
            UserError: ``seconds`` is out of range, it was called before, or the system is not Linux.
            MissingPackage: the run is recorded, and the package that draws the tree is not installed.
        """
        from loaderlab.attach.profiled_loop import ProfiledLoop

        if self._record is not None:
            require("profile_workers() of a recorded loop", "pyinstrument")
        if self._profiled is not None:
            raise UserError("watch: meter.profile_workers() was called twice. Call it once, before the loop")
        self._profiled = ProfiledLoop(self._meter, seconds)

    # ---- in the loop ---------------------------------------------------------------------------------------

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """The loader's batches; one call is one epoch.

        The time between two calls (an evaluation, for example) is not measured. A nested call is not measured either:
        the outer loop continues when the inner one has ended.

        Raises:
            UserError: `step` was not called for the previous batch, or another call of `batches` is still running.
        """
        meter, loops, loop = self._meter, self._loops, loop_of(loader, _setup(loader, self._device))
        if self._ranks is not None:
            self._ranks.begin(loader)
        loops.begin(loop)
        try:
            meter.next_step()
            profiled = self._profiled
            if loop.early:  # inside another loop
                profiled = None
            batches = iter(loader) if profiled is None else profiled.iterator(loader)
            while True:
                try:
                    batch = next(batches) if profiled is None else profiled.batch(loader, batches, self._warmup)
                except StopIteration:
                    if loops.continues(loop):
                        loops.end(loop, exhausted=True)
                    return
                measured = loops.continues(loop)
                if measured:
                    meter.mark()  # wait
                    meter.mark()  # transfer; `delivered` moves this mark
                loops.begin_step(loop, measured)
                yield batch
                if loops.continues(loop) and loops.is_open:
                    raise UserError(
                        "watch: meter.step(num_samples=...) was not called for a batch. Call it at the end of each step"
                    )
                meter.next_step()
        finally:
            loops.end(loop, exhausted=False)

    def _after_stretch(self) -> None:
        self._memory.after_epoch(self._meter.num_steps)

    def delivered(self) -> None:
        """Call when the batch is on the device or its copy is queued: the time since `batches` returned it is delivery."""
        if not self._loops.is_open:
            if self._loops.interrupted() is not None:
                return
            raise UserError(
                "watch: meter.delivered() must be called between a batch of meter.batches(loader) and meter.step()"
            )
        self._delivery_marked = True
        self._meter.move_mark()

    def step(self, num_samples: int, loss: torch.Tensor | SupportsFloat | None = None) -> None:
        """Ends the step; call it once per batch, after the optimizer.

        Args:
            num_samples: in this batch.
            loss: a tensor with one element, which is recorded without waiting for the device; or any other number.

        Raises:
            UserError: there is no batch to end, ``num_samples`` is not a whole number, or ``loss`` is not a number.
        """
        loops = self._loops
        if loops.end_interrupted():
            return
        if not loops.is_open:
            raise UserError(
                "watch: meter.step() must be called once per batch of meter.batches(loader); there is none to end"
            )
        count, scalar = sample_count(num_samples), loss_scalar(loss)
        self._meter.mark()
        self._meter.mark()
        self._meter.end_step(count, scalar)
        loops.end_step()
        if self._ranks is not None:
            self._ranks.stepped()

    # ---- afterwards ----------------------------------------------------------------------------------------

    def slow_lines(self) -> SlowLines | None:
        """The lines of the loader by their share of a worker's time, the slowest first, and what the training would gain without each; None
        without `profile_workers`, or if there is no result: the verdict says why."""
        slow = profiled_of(self._loop())
        return None if slow is None else slow.lines

    def slow_lines_html(self) -> str:
        """The time of the worker as a tree of calls: a page that loads nothing.

        Raises:
            UserError: nothing was sampled, or pyinstrument is not installed.
        """
        from loaderlab.lines.tree import tree

        slow = profiled_of(self._loop())
        if slow is None:
            raise UserError("watch: nothing was profiled. Call meter.profile_workers() before the loop")
        if slow.lines is None:
            raise UserError(f"watch: there is no tree of slow lines: {slow.problem}")
        return tree(slow.recording, self._record or LOOP)

    def verdict(self) -> Verdict:
        """The verdict on the steps measured so far; ``str`` of it is one line. A notebook shows it with its loop.

        In a job of several ranks it is about this rank; after the block it is about the whole job on the first rank.
        """
        reading = None if self._ranks is None else self._ranks.reading
        if reading is None:
            verdict = self._verdict(self._loop())
            note = "" if self._ranks is None else self._ranks.note
            return replace(verdict, because="; ".join(filter(None, [verdict.because, note])))
        verdict, ranks = reading.job.verdict, reading.ranks
        return replace(verdict, because="; ".join(filter(None, [verdict.because, str(ranks or "")])))

    @property
    def ranks(self) -> RanksReading | None:
        """The verdict over the ranks of the job, on its first rank after the block; None on the others, and without other ranks."""
        return None if self._ranks is None else self._ranks.ranks

    def _verdict(self, loop: LoopRecord) -> Verdict:
        """The verdict on this rank."""
        setup = self._loops.setup
        evidence = evidence_of(loop, NO_PROBES)
        verdict = judge(evidence, setup)
        if verdict.bottleneck is not None and self._device.capabilities.asynchronous and not self._delivery_marked:
            verdict = replace(verdict, because=verdict.because + UNSEEN)
        slow = None if loop.profiled is None else loop.profiled.profiled(evidence)
        notes = [*self._loops.notes(), *([] if slow is None or slow.lines is not None else [slow.sentence])]
        verdict = replace(verdict, because="; ".join([verdict.because, *notes]))
        title = f"{self._record or LOOP} on {self._device.title}"
        return replace(in_terms(verdict, in_torch_terms), html=LoopHtml(title, loop, setup))

    def figures(self) -> dict[str, float]:
        """Metric name to value, as in `loaderlab.metrics`; metrics that were not measured are absent. See `verdict` for jobs of
        several ranks."""
        reading = None if self._ranks is None else self._ranks.reading
        return self._figures(self._loop()) if reading is None else dict(reading.job.figures)

    def _figures(self, loop: LoopRecord) -> dict[str, float]:
        """The metrics of this rank."""
        if loop.window and not self._loops.is_open:
            loop = replace(loop, own_cost_ns=own_cost_ns(self._device, sync=self._sync))
        return figures_of(loop, NO_PROBES, self._loops.setup)

    def _repr_html_(self) -> str | None:
        """For notebooks: the steps measured so far."""
        return self.verdict()._repr_html_()

    def _loop(self) -> LoopRecord:
        """The records so far."""
        record, setup = self._loops.record(self._meter.settled), self._loops.setup
        return LoopRecord(
            steps=record.steps,
            warmup_steps=self._warmup,
            parallel=setup.loader.parallel if setup is not None else 1,
            lookahead=setup.loader.lookahead if setup is not None else 0,
            epochs_ns=record.epochs_ns,
            epoch_ends_ns=record.epoch_ends_ns,
            used=record.used,
            cores=rank_cores(),
            train_s=sum(end - begin for begin, end in record.epochs_ns) / 1e9 or None,
            device_samples=self._device_samples,
            own_pids=resources.own_pids(),
            host_peak_mib=self._memory.host_mib,
            device_peak_mib=self._memory.device_mib,
            losses=[step.loss for step in record.steps if math.isfinite(step.loss)][-NUM_LOSSES:],
            phases_marked=False,
            delivery_marked=self._delivery_marked,
            profiled=None if self._profiled is None else self._profiled.record(),
        )

    @property
    def _warmup(self) -> int:
        if self._warmup_steps is not None:
            return self._warmup_steps
        setup = self._loops.setup
        return max(LEAST_WARMUP, setup.loader.lookahead if setup is not None else 0)

    # ---- its record ----------------------------------------------------------------------------------------

    def __enter__(self) -> Watch:
        if self._record is not None and (self._ranks is None or self._ranks.place.is_first):
            require("watch(record=...)", "mlflow", "matplotlib", "filelock")
            from loaderlab.tracking import open_store

            store = open_store(self._tracking, store_root())
            tags = {"device.type": self._device.kind, "device.name": self._device.name}
            tags |= {"arm": self._record, "mlflow.source.name": "loaderlab.watch"}
            self._tracked = store.start(self._record, None, tags)
        if (uuid := self._device.nvml_uuid) is not None:
            self._sampler = DeviceSampler(uuid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self._loops.end_all()
        if self._profiled is not None:
            self._profiled.end()
        if self._sampler is not None:
            self._device_samples = self._sampler.stop()
        if self._ranks is not None:
            own = OwnResults(self._loop(), self._loops.setup, self._verdict, self._figures)
            self._ranks.end(own, failed=kind is not None)
        if self._tracked is None:
            return
        ended: tuple[Any, Any, Any] = (kind, error, frames)
        try:
            if kind is not None:
                self._tracked.tags({"error": error_line(error or kind())})
            if self._meter.settled:
                self._write(self._tracked)
        except BaseException:
            ended = sys.exc_info()
            raise
        finally:
            self._tracked.__exit__(*ended)  # sets the run's status

    def _write(self, tracked: TrackedRun) -> None:
        from loaderlab.attach.record import Record, write_record
        from loaderlab.device.environment import describe

        loop = self._loop() if self._ranks is None or self._ranks.reading is None else self._ranks.reading.job.loop
        record = Record(
            name=str(self._record),
            facts={"device": self._device.title},
            verdict=self.verdict(),
            figures=self.figures(),
            loop=loop,
            environment=describe(self._device),
            ranks=self.ranks,
            slow=profiled_of(loop),
        )
        write_record(tracked, record)


def watch(
    device: torch.device | str,
    *,
    warmup_steps: int | None = None,
    sync: bool = False,
    record: str | None = None,
    uri: str = AUTO,
    experiment: str = "loaderlab",
    ranks: bool = True,
) -> Watch:
    """A meter for your own loop.

    Args:
        device: where the step runs. On CUDA the current stream is timed by events, without waiting for them.
        warmup_steps: steps left out of the measured window; by default 5, or a DataLoader's lookahead if that is more.
        sync: wait for the device at every mark. This removes its overlap with the host; it exists to validate the event
            timing.
        record: name of an MLflow run to record; None: no run.
        uri: MLflow store of that run; `auto` is mlruns/mlflow.db of the checkout, or of the working folder if
            loaderlab is installed.
        experiment: MLflow experiment of that run.
        ranks: in a job of several ranks, compare them when the block ends, and record one run, from the first rank. False for
            a loop that not all ranks have: the first rank would wait for the others.

    Raises:
        UserError: there is no such device, or the store cannot be opened.
    """
    resolved, line = resolve_device(str(device)), next(iter(user_lines(call_stack()[0])), "")
    compared = LoopRanks(resolved, record or LOOP, line, sync=sync) if ranks else None
    return Watch(resolved, warmup_steps, sync, record, TrackingConfig(uri, experiment), compared)


def _setup(loader: Iterable[Any], device: Device) -> Setup:
    """The setup as far as a user's loader shows it."""
    return Setup(
        loader=of_torch(loader) if isinstance(loader, DataLoader) else LoaderCapabilities(),
        device=device.capabilities,
        cores=rank_cores(),
        threads=torch.get_num_threads(),
        batch_size=getattr(loader, "batch_size", None) or 0,
    )
