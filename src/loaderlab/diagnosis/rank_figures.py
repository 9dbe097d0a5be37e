"""The metrics of a job of several ranks, from the metrics of each rank and those of the job's own steps. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from loaderlab import metrics

SUMS = (
    metrics.RATE,
    metrics.CEILING_RATE,
    metrics.CONTENDED_RATE,
    metrics.LOADER_RATE,
    metrics.EXPECTED_RATE,
    metrics.COLD_RATE,
    metrics.WARM_RATE,
    metrics.SKIPPED_SAMPLES,
)
OF_ITS_STEPS = (  # only the steps of the whole job give them: a wait of one rank may cost nothing
    metrics.STARVED_PCT,
    metrics.STARVED_LOW_PCT,
    metrics.STARVED_HIGH_PCT,
    metrics.CHANGE_STEP,
    metrics.STARVED_BEFORE_PCT,
    metrics.STARVED_SINCE_PCT,
)
OF_THE_JOB = (*OF_ITS_STEPS, metrics.RATE, metrics.HEADROOM_X, metrics.EFFICIENCY_PCT, metrics.TRAIN_LOSS)


def without_sums(figures: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a job of which only some ranks are known: a sum over these would look like that of the job."""
    return {name: value for name, value in figures.items() if name not in SUMS}


def job_figures(per_rank: Sequence[Mapping[str, float]], job: Mapping[str, float]) -> dict[str, float]:
    """Metric name to value. Rates are sums over ranks, the other metrics medians, with the worst rank's value next to each.

    A sum is absent if a rank has no value. The job's own rate, starved share and what is derived from them are those of its
    steps; so are metrics that have one value for the whole run. Their worst rank's values are those of the ranks.

    Args:
        per_rank: metrics of each rank; a metric that a rank did not measure is absent.
        job: metrics of the job's own steps (`loaderlab.diagnosis.rank_rows.job_steps_of_rows`).
    """
    names = dict.fromkeys(name for figures in per_rank for name in figures)
    result: dict[str, float] = {}
    for name in names:
        values = [figures[name] for figures in per_rank if name in figures and math.isfinite(figures[name])]
        entry, worst = metrics.metric(name), metrics.worst_of(name)
        if not values or not entry.per_rank:
            continue
        if name in SUMS:
            result |= {name: sum(values)} if len(values) == len(per_rank) else {}
        elif name not in OF_ITS_STEPS:
            result[name] = median(values)
        if worst is not None:
            result[worst] = min(values) if metrics.higher_is_better(name) else max(values)
    own = {name: job[name] for name in job if name in OF_THE_JOB or not metrics.metric(name).per_rank}
    return result | {metrics.NUM_RANKS: len(per_rank)} | own  # the job may count ranks without metrics too
