"""The third stage of a run: the probes, which measure what limited it."""

from __future__ import annotations

from loaderlab import metrics
from loaderlab.diagnosis.advice import threads_to_probe
from loaderlab.diagnosis.evidence import FED
from loaderlab.diagnosis.figures import evidence_of
from loaderlab.diagnosis.verdict import grade
from loaderlab.meter.summary import summarize
from loaderlab.probes.inputs import ProbeInputs
from loaderlab.probes.sequence import Probes
from loaderlab.runs.context import RunContext
from loaderlab.runs.loader_set import LoaderSet
from loaderlab.runs.measured_loop import Trained
from loaderlab.runs.prepare import Prepared
from loaderlab.runs.setup import setup_of

MAX_CEILINGS = 2  # measured with other numbers of threads


def probe(context: RunContext, prepared: Prepared, trained: Trained, loaders: LoaderSet, probes: Probes) -> None:
    """Runs the probes that are switched on; ``probes`` has their results, even after an interrupt."""
    config, measure = context.config, context.config.measure
    figures = summarize(trained.loop.window)
    rate = figures.get(metrics.RATE)
    if context.group is not None and not context.group.all_true(rate is not None):
        return
    if rate is None:
        return  # there is no measured rate to compare a probe with
    inputs = ProbeInputs(
        parts=prepared.parts,
        settings=measure,
        rebuild=lambda: loaders.training(prepared.spec, prepared.plan, prepared.device),
        split=prepared.spec.train,
        plan=prepared.plan,
        epoch=trained.epoch,
        accumulate=config.accumulate,
        rate=rate,
        busy_ms=figures[metrics.STEP_MS] * (1 - figures[metrics.STARVED_PCT] / 100),
    )
    with context.terminal.progress("probes", 4 if measure.cold else 3) as bar:
        probes.run(inputs, bar.update)
        if context.group is None:
            _ceiling_with_other_threads(context, prepared, trained, inputs, probes)
    for note in probes.results.notes:
        context.terminal.warn(note)


def _ceiling_with_other_threads(
    context: RunContext, prepared: Prepared, trained: Trained, inputs: ProbeInputs, probes: Probes
) -> None:
    """Measures the ceiling with the number of torch's threads that the advice would leave.

    On shared cores, the number of workers changes the step time. The new ceiling may change the advice, so this is done at
    most twice.
    """
    setup = setup_of(context, prepared)
    for _ in range(MAX_CEILINGS):
        evidence = evidence_of(trained.loop, probes.results)
        threads = None if grade(evidence.starved_pct) == FED else threads_to_probe(evidence, setup)
        if threads is None:
            return
        probes.run_ceiling(inputs, threads)
