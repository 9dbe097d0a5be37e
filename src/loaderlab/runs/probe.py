"""The third stage of a run: what it might have been."""

from __future__ import annotations

from loaderlab import metrics
from loaderlab.meter.summary import summarize
from loaderlab.probes.inputs import ProbeInputs
from loaderlab.probes.sequence import Probes
from loaderlab.runs.context import RunContext
from loaderlab.runs.loader_set import LoaderSet
from loaderlab.runs.measured_loop import Trained
from loaderlab.runs.prepare import Prepared


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
    for note in probes.results.notes:
        context.terminal.warn(note)
