"""Runs the probes one after the other: the step without the loader, the loader without the step, both together.

They run after training and use the same loop, so that each of them differs from the run in one thing only. They restore
what they change: see `loaderlab.training.state`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from loaderlab.config import AUTO, UserError
from loaderlab.data.spec import EncodedImages
from loaderlab.loaders.contract import Batch, Loader
from loaderlab.meter import resources
from loaderlab.meter.rates import ProbeResults
from loaderlab.probes.ceiling import ENOUGH_STEPS, WARMUP_STEPS, Unmeasurable, ceiling, resident_batches
from loaderlab.probes.cold import cold_and_warm
from loaderlab.probes.inputs import ProbeInputs
from loaderlab.probes.loader_alone import loader_alone
from loaderlab.system.causes import reason
from loaderlab.training.state import untouched

TOO_FEW_STEPS = "too few steps in the probe's time. Type for example: measure.probe_s=10"


class Probes:
    """The probes of one run. `results` can be read at any time: an interrupted `run` keeps its finished results."""

    def __init__(self) -> None:
        self._results = ProbeResults()
        self._batches: list[Batch] = []  # resident on the device, for `run_ceiling`

    @property
    def results(self) -> ProbeResults:
        """The results so far."""
        return self._results

    def run(self, inputs: ProbeInputs, on_probe: Callable[[int, str], None]) -> None:
        """Runs every probe that is switched on, each for a limited time. A probe that fails adds a note; the run does not
        fail.

        Args:
            on_probe: called with (number, name) before each probe.
        """
        settings, parts = inputs.settings, inputs.parts
        if not (settings.ceiling or settings.loader_alone or settings.cold):
            return
        with_contention = settings.ceiling if settings.contention == AUTO else bool(settings.contention)
        with self._noted("probes"), untouched(parts.step, parts.device):  # restoring takes memory too
            batches: list[Batch] = []
            with self._noted("probes"):
                batches = resident_batches(parts.loader, inputs.epoch, settings.probe_s)
                if not batches:
                    raise Unmeasurable("the loader has no more batches")
            self._batches = batches
            parts.loader.close()  # its workers must not slow the ceiling
            if settings.ceiling and self._on_all_ranks(inputs, bool(batches)):
                on_probe(0, "ceiling")
                with self._noted("ceiling"):
                    self._keep(ceiling=self._ceiling(inputs, batches, None))
            if (settings.loader_alone or with_contention) and not parts.loader.capabilities.loads_nothing:
                self._with_loader(inputs, batches, with_contention, on_probe)
            if settings.cold:
                on_probe(3, "cold file cache")
                with self._noted("measure.cold=true"):
                    self._cold(inputs)

    def run_ceiling(self, inputs: ProbeInputs, threads: int) -> None:
        """Measures the ceiling again with another number of torch threads, on the batches of `run`."""
        before = torch.get_num_threads()
        with self._noted(f"ceiling with {threads} threads"), untouched(inputs.parts.step, inputs.parts.device):
            torch.set_num_threads(threads)
            try:
                rate = self._ceiling(inputs, self._batches, None)
            finally:
                torch.set_num_threads(before)
            self._keep(ceiling_by_threads={**self._results.ceiling_by_threads, threads: rate})

    def _ceiling(self, inputs: ProbeInputs, batches: list[Batch], concurrent_loader: Loader | None) -> object:
        settings, group, num_steps = inputs.settings, inputs.parts.group, None
        if group is not None:
            num_steps = group.largest(max(WARMUP_STEPS + ENOUGH_STEPS, round(1e3 * settings.probe_s / inputs.busy_ms)))
        rate = ceiling(
            inputs.parts,
            batches,
            settings.probe_s,
            inputs.accumulate,
            concurrent_loader=concurrent_loader,
            sync=settings.sync,
            num_steps=num_steps,
        )
        if rate is None:
            raise Unmeasurable(TOO_FEW_STEPS)
        return rate

    def _with_loader(
        self,
        inputs: ProbeInputs,
        batches: list[Batch],
        with_contention: bool,
        on_probe: Callable[[int, str], None],
    ) -> None:
        contention, seconds = "ceiling while the loader runs", inputs.settings.probe_s
        with contextlib.ExitStack() as stack:
            loader: Loader | None = None
            with self._noted("loader alone"):
                loader = stack.enter_context(contextlib.closing(inputs.rebuild()))
                if inputs.settings.loader_alone:
                    on_probe(1, "loader alone")
                    self._keep(stages=loader.stages(seconds / 4))
                    alone = loader_alone(loader, inputs.epoch, seconds, resources.cpu_seconds, inputs.parts.device)
                    self._keep(loader_alone=alone)
                    if alone is None:
                        self._note("loader alone: an epoch has too few batches to measure")
            # without lookahead the loader never runs during a step
            ready = loader is not None and bool(loader.lookahead) and bool(batches)
            if with_contention and self._on_all_ranks(inputs, ready):
                on_probe(2, contention)
                with self._noted(contention):
                    self._keep(contended=self._ceiling(inputs, batches, loader))

    def _on_all_ranks(self, inputs: ProbeInputs, ready: bool) -> bool:
        """Whether this probe can be run: on every rank, since its steps need all of them."""
        group = inputs.parts.group
        return ready if group is None else group.all_true(ready)

    def _cold(self, inputs: ProbeInputs) -> None:
        source = inputs.split.source
        if not isinstance(source, EncodedImages):
            raise Unmeasurable("the samples do not come from files that loaderlab reads itself")
        enough = max(ENOUGH_STEPS, int(inputs.settings.probe_s * inputs.rate / inputs.plan.batch_size))
        cold, warm = cold_and_warm(inputs, source, min(inputs.plan.num_steps, WARMUP_STEPS + enough))
        self._keep(cold=cold, warm=warm)

    def _keep(self, **measured: object) -> None:
        self._results = replace(self._results, **measured)  # type: ignore[arg-type]

    def _note(self, text: str) -> None:
        self._results = replace(self._results, notes=(*self._results.notes, text))

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        """Records the reason why a probe has no result as a note."""
        try:
            yield
        except (Unmeasurable, UserError, OSError) as error:
            self._note(f"{name}: {reason(error)}")
        except torch.OutOfMemoryError:
            self._note(f"{name}: not enough device memory for the probe's batches")
