"""The meter in anybody's loop: the same figures and the same verdict, without the rest of this program.

    from loaderlab import watch

    with watch(device) as meter:
        for inputs, targets in meter.batches(loader):
            inputs, targets = inputs.to(device), targets.to(device)
            meter.delivered()  # optional: see below
            ...
            meter.step(num_samples=len(targets))
    print(meter.verdict())

What it sees: the wait in the loader's ``next``, and on CUDA, by events on the current stream, whether the device had run
dry meanwhile. What it cannot: without `Watch.delivered` the copy to the device counts as work and not as starvation;
forward, backward and optimizer are one figure; there is no ceiling, so the headroom is what the starved share alone
allows; and which part of the loader is slow. Work on streams other than the current one is not seen as such.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils.data import DataLoader

from loaderlab import metrics
from loaderlab.config import AUTO, PROJECT, TrackingConfig, UserError
from loaderlab.device import environment, resolve
from loaderlab.diagnosis import figures
from loaderlab.diagnosis.evidence import Advice, Evidence, Setup, Verdict
from loaderlab.diagnosis.verdict import judge
from loaderlab.meter import resources, summary
from loaderlab.meter.phases import Step, StepMeter, own_cost_ns
from loaderlab.meter.rates import ProbeResults
from loaderlab.meter.sampler import DeviceSample, DeviceSampler
from loaderlab.report import run_page
from loaderlab.system import machine

if TYPE_CHECKING:
    from loaderlab.tracking.store import TrackedRun

T = TypeVar("T")
LEAST_WARMUP = 5  # steps
UNSEEN = "; copies to the device count as work: call meter.delivered() after .to(device) to tell them apart"
IN_TORCH = {  # an override of ours, and the same in a loop of one's own
    "loader.num_workers=": "DataLoader(num_workers={})",
    "loader.persistent_workers=": "DataLoader(persistent_workers=True)",
    "loader.pin_memory=": "DataLoader(pin_memory=True)",
    "loader.non_blocking=": "tensor.to(device, non_blocking=True)",
    "precision=bf16": "torch.autocast(device.type, torch.bfloat16)",
    "batch_size=": "batch_size={}",
    "model.compile=": "torch.compile(model)",
}


class Watch:
    """The meter of one loop; made by `watch`. A context manager: leave it before reading the last figures."""

    def __init__(
        self, device: torch.device, warmup_steps: int | None, sync: bool, record: str | None, tracking: TrackingConfig
    ) -> None:
        self._device, self._warmup_steps = device, warmup_steps
        self._meter = StepMeter(device, counters=figures.counters, sync=sync)
        self._record, self._tracking, self._sync = record, tracking, sync
        self._epoch, self._in_epoch, self._open, self._told_delivery = 0, False, False, False
        self._setup: Setup | None = None
        self._tracked: TrackedRun | None = None
        self._sampler: DeviceSampler | None = None
        self._device_samples: list[DeviceSample] = []
        self._peak_mib: float | None = None

    # ---- in the loop ---------------------------------------------------------------------------------------

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """The loader's batches; one call is one epoch. What happens between two calls, an evaluation say, is not
        measured.

        Raises:
            UserError: `step` was not called for the batch before.
        """
        self._end_epoch(exhausted=False)  # of a loop that broke off, and whose iterator is still about
        self._setup = _setup(loader, self._device)
        meter = self._meter
        meter.begin_epoch(self._epoch)
        self._in_epoch, self._epoch = True, self._epoch + 1
        try:
            meter.next_step()
            batches = iter(loader)
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    self._end_epoch(exhausted=True)
                    return
                meter.mark()  # wait
                meter.mark()  # transfer, until `delivered` says better
                self._open = True
                yield batch
                if self._open:
                    raise UserError(
                        "watch: meter.step(num_samples=...) was not called for a batch. Call it at the end of each step"
                    )
                meter.next_step()
        finally:
            self._end_epoch(exhausted=False)

    def _end_epoch(self, exhausted: bool) -> None:
        if not self._in_epoch:
            return
        self._in_epoch = False
        if self._open:
            self._meter.drop_step()
            self._open = False
        self._meter.end_epoch(exhausted)
        memory = resources.proportional_memory_mib()
        self._peak_mib = self._peak_mib if memory is None else max(memory, self._peak_mib or 0.0)

    def delivered(self) -> None:
        """The batch is on the device, or its copy is queued there: what came since `batches` gave it was delivery."""
        if not self._open:
            raise UserError(
                "watch: meter.delivered() belongs between a batch of meter.batches(loader) and meter.step()"
            )
        self._told_delivery = True
        self._meter.move_mark()

    def step(self, num_samples: int, loss: torch.Tensor | None = None) -> None:
        """The step is over; call it once a batch, after the optimizer.

        Args:
            num_samples: in this batch.
            loss: scalar, to be kept with the step; it is not waited for.

        Raises:
            UserError: there is no batch to end, or ``num_samples`` is no count.
        """
        if not self._open:
            raise UserError("watch: meter.step() ends a batch of meter.batches(loader), once; there is none to end")
        if num_samples < 1:
            raise UserError(
                f"watch: meter.step(num_samples={num_samples}): must be at least 1, the samples of this batch"
            )
        self._meter.mark()
        self._meter.mark()
        self._meter.end_step(num_samples, loss)
        self._open = False

    # ---- afterwards ----------------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Starved or not, as far as it has been seen by now; ``str`` of it is one line."""
        found = judge(self._evidence(), self._setup)
        if found.bottleneck is not None and self._device.type == "cuda" and not self._told_delivery:
            found = replace(found, because=found.because + UNSEEN)
        return replace(found, advice=tuple(filter(None, map(_in_torch, found.advice))))

    def figures(self) -> dict[str, float]:
        """Metric name to value, as `summary.summarize` and `figures.figures` name them."""
        meter, window = self._meter, self._window
        found = summary.coarse(summary.summarize(window))
        if not self._told_delivery:
            for name in (metrics.TRANSFER_MS, metrics.HOST_TRANSFER_MS, metrics.DELIVERY_PCT):
                found.pop(name, None)  # not marked, so not measured
        found |= figures.figures(self._evidence(), ProbeResults(), None, found.get(metrics.RATE))
        found |= figures.usage(meter, machine.available_cores())
        found |= figures.device_usage(meter, window, self._device_samples)
        if meter.steps:
            found[metrics.FIRST_BATCH_S] = meter.steps[0].host[0] / 1e9
        if (gap := summary.between_epochs_ms(meter.steps, meter.epoch_ends_ns)) is not None:
            found[metrics.EPOCH_GAP_MS] = gap
        if meter.epochs_s:
            found[metrics.TRAIN_S] = meter.epochs_s
        if self._peak_mib is not None:
            found[metrics.HOST_PEAK_MIB] = self._peak_mib
        if self._device.type == "cuda":
            found[metrics.DEVICE_PEAK_MIB] = torch.cuda.max_memory_allocated(self._device) / 2**20
        if metrics.STEP_MS in found and not self._open:
            found[metrics.OVERHEAD_PCT] = own_cost_ns(self._device, sync=self._sync) / 1e4 / found[metrics.STEP_MS]
        losses = [step.loss for step in self._settled if math.isfinite(step.loss)][-10:]
        if losses:
            found[metrics.TRAIN_LOSS] = sum(losses) / len(losses)
        return found

    @property
    def _settled(self) -> list[Step]:
        return self._meter.steps[: self._meter.num_settled]

    @property
    def _parallel(self) -> int:
        return self._setup.parallel if self._setup is not None else 1

    @property
    def _warmup(self) -> int:
        if self._warmup_steps is not None:
            return self._warmup_steps
        prefetch = self._setup.settings.get("prefetch_factor") if self._setup is not None else None
        return max(LEAST_WARMUP, self._parallel * prefetch if isinstance(prefetch, int) else 0)

    @property
    def _window(self) -> list[Step]:
        return summary.measured(self._settled, self._warmup, self._parallel)

    def _evidence(self) -> Evidence:
        cpu_pct = figures.usage(self._meter, machine.available_cores()).get(metrics.CPU_PCT)
        found = figures.evidence(self._meter, self._window, ProbeResults(), self._parallel, cpu_pct)
        return (
            found if self._told_delivery else replace(found, delivery_pct=0.0)
        )  # what lies between two marks made at once

    # ---- its record ----------------------------------------------------------------------------------------

    def __enter__(self) -> Watch:
        if self._record is not None:
            from loaderlab.tracking import open_store

            store = open_store(self._tracking, PROJECT)
            tags = {"device.type": self._device.type, "device.name": resolve.device_name(self._device)}
            tags |= {"arm": self._record, "mlflow.source.name": "loaderlab.watch"}
            self._tracked = store.start(self._record, None, tags)
        if self._device.type == "cuda":
            self._sampler = DeviceSampler(str(torch.cuda.get_device_properties(self._device).uuid))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self._end_epoch(exhausted=False)
        if self._sampler is not None:
            self._device_samples = self._sampler.stop()
        if self._tracked is None:
            return
        ended: tuple[Any, Any, Any] = (kind, error, frames)
        try:
            from loaderlab.runs.outputs import one_line

            if kind is not None:
                self._tracked.tags({"error": one_line(error or kind())})
            if self._settled:
                self._write(self._tracked)
        except BaseException:
            ended = sys.exc_info()
            raise
        finally:
            self._tracked.__exit__(*ended)  # sets the run's status

    def _write(self, tracked: TrackedRun) -> None:
        from loaderlab.runs import outputs

        verdict, figures, name = self.verdict(), self.figures(), str(self._record)
        for metric, value in figures.items():
            tracked.metric(metric, value, len(self._meter.steps))
        for step in self._settled:
            tracked.metric(metrics.TRAIN_LOSS, step.loss, step.step)  # one that was not given is not finite: left out
        facts = {"device": f"{self._device} {resolve.device_name(self._device)}"}
        page = run_page.markdown(name, facts, figures, verdict)
        tracked.tags(outputs.verdict_tags(verdict) | {"mlflow.note.content": page})
        with tempfile.TemporaryDirectory() as folder:
            steps, to = self._settled, Path(folder)
            outputs.write_steps(
                to, f"{name}: {verdict.grade}", steps, self._warmup, self._parallel, figures, coarse=True
            )
            (to / "report.md").write_text(page)
            (to / "environment.json").write_text(json.dumps(environment.describe(self._device), indent=1) + "\n")
            tracked.artifacts(to)


def watch(
    device: torch.device | str,
    *,
    warmup_steps: int | None = None,
    sync: bool = False,
    record: str | None = None,
    uri: str = AUTO,
    experiment: str = "loaderlab",
) -> Watch:
    """A meter for a loop of one's own.

    Args:
        device: where the step runs. On CUDA the loop's own current stream is timed by events; nothing waits for them.
        warmup_steps: left out of the measured window; by default 5, or what a DataLoader works ahead if that is more.
        sync: wait for the device at every mark, which removes its overlap with the host: to check the events against.
        record: the name of an MLflow run to make of it; None: none.
        uri, experiment: of the store for that run; `auto` is mlruns/mlflow.db of this program's checkout.

    Raises:
        UserError: no such device, or a store that cannot be opened.
    """
    return Watch(resolve.resolve_device(str(device)), warmup_steps, sync, record, TrackingConfig(uri, experiment))


def _setup(loader: Iterable[Any], device: torch.device) -> Setup:
    """What can be seen of anybody's loader."""
    workers = loader.num_workers if isinstance(loader, DataLoader) else 0
    settings: dict[str, object] = {}
    if isinstance(loader, DataLoader):
        settings = {
            "num_workers": workers,
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "pin_memory": loader.pin_memory,
        }
    return Setup(
        loader="native" if isinstance(loader, DataLoader) else "own",
        settings=settings,
        parallel=max(1, workers),
        ahead=workers > 0,
        cores=machine.available_cores(),
        threads=torch.get_num_threads(),
        device_type=device.type,
        batch_size=getattr(loader, "batch_size", None) or 0,
    )


def _in_torch(advice: Advice) -> Advice | None:
    """The advice in terms of PyTorch; None where it is one of this program's own settings."""
    if not advice.override:
        return advice
    for start, own in IN_TORCH.items():
        if advice.override.startswith(start):
            return replace(advice, override=own.format(advice.override.removeprefix(start)))
    return None
