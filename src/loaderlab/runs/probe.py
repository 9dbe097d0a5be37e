"""The third stage of a run: what it might have been."""

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

MOST_CEILINGS = 2  # with other numbers of threads


def probe(context: RunContext, prepared: Prepared, trained: Trained, loaders: LoaderSet, probes: Probes) -> None:
    """Runs the probes that are switched on; ``probes`` has their results, also after an interrupt."""
    config, measure = context.config, context.config.measure
    rate = summarize(trained.loop.window).get(metrics.RATE)
    if rate is None:
        return  # nothing was measured that a probe could be compared with
    inputs = ProbeInputs(
        parts=prepared.parts,
        settings=measure,
        rebuild=lambda: loaders.training(prepared.spec, prepared.plan, prepared.device),
        split=prepared.spec.train,
        plan=prepared.plan,
        epoch=trained.epoch,
        accumulate=config.accumulate,
        rate=rate,
    )
    with context.terminal.progress("probes", 4 if measure.cold else 3) as bar:
        probes.run(inputs, bar.update)
        _ceiling_with_other_threads(context, prepared, trained, inputs, probes)
    for note in probes.results.notes:
        context.terminal.warn(note)


def _ceiling_with_other_threads(
    context: RunContext, prepared: Prepared, trained: Trained, inputs: ProbeInputs, probes: Probes
) -> None:
    """Measures the ceiling with torch's threads as the advice would leave them: on shared cores another number of workers
    makes another step. What is then advised may differ, so twice at most."""
    setup = setup_of(context, prepared)
    for _ in range(MOST_CEILINGS):
        evidence = evidence_of(trained.loop, probes.results)
        threads = None if grade(evidence.starved_pct) == FED else threads_to_probe(evidence, setup)
        if threads is None:
            return
        probes.run_ceiling(inputs, threads)
