"""The gate ``fail_if.utilization_below`` of a run, a sweep and a comparison. It is judged after everything is recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from loaderlab import metrics
from loaderlab.compare.arms import Comparison
from loaderlab.compare.utilization import Utilization, judge_utilization, utilization_metric
from loaderlab.config import GateFailed, GateNotJudged, ReplayLoader, TrainConfig, refuse
from loaderlab.system.terminal import Terminal

NAME = "fail_if.utilization_below"
MAX_LISTED = 5
MISSING = {  # metric to why a run does not have it, and what to type
    metrics.UTILIZATION_PCT: ("no throughput was measured, because the run was too short", "steps=200 epochs=auto"),
    metrics.EFFICIENCY_PCT: (
        "the ceiling was not measured, because it was switched off, or the run or its probe was too short",
        "measure.ceiling=true measure.probe_s=10",
    ),
}


def check_run(config: TrainConfig, name: str, figures: Mapping[str, float], terminal: Terminal) -> None:
    """Judges the gate of a single run, if it has one, and prints that it is passed.

    Args:
        name: of the run.
        figures: the run's metrics.

    Raises:
        GateNotJudged: the run has no utilization.
        GateFailed: its utilization is below the limit.
    """
    limit, metric = config.fail_if.utilization_below, utilization_metric(emulated=config.accelerator.is_emulated)
    if limit is None:
        return
    if isinstance(config.loader, ReplayLoader):
        raise _no_loader(limit)
    if metric not in figures:
        raise _not_measured(limit, {name: metric})
    utilization = Utilization(name, metric, [figures[metric]])
    _fail_below(limit, [utilization])
    terminal.say(f"{NAME}={limit:g}: passed: {utilization}")


def check_comparison(comparison: Comparison, limit: float, terminal: Terminal) -> None:
    """Judges the gate of every arm of a sweep or comparison, and prints that it is passed.

    Raises:
        GateNotJudged: an arm has no utilization, or a job has no run.
        GateFailed: the utilization of an arm is below the limit: its whole confidence interval, or with fewer than three
            repeats its median.
    """
    gate = judge_utilization(comparison)
    if gate.unmeasured:
        raise GateNotJudged(f"{NAME}={limit:g}: not measured: {listed(gate.unmeasured)}, so the gate cannot pass")
    if gate.without:
        raise _not_measured(limit, gate.without)
    if not gate.judged:
        raise _no_loader(limit)
    _fail_below(limit, gate.judged)
    count, lowest = len(gate.judged), min(gate.judged, key=lambda entry: min(entry.values))
    terminal.say(f"{NAME}={limit:g}: passed by {count} arm{'s' * (count > 1)}; the lowest: {lowest}")


def _fail_below(limit: float, judged: Iterable[Utilization]) -> None:
    below = [str(entry) for entry in judged if entry.is_below(limit)]
    if below:
        raise GateFailed(f"{NAME}={limit:g}: not reached: {listed(below)}")


def _not_measured(limit: float, without: Mapping[str, str]) -> Exception:
    """The error for arms without a utilization: ``without`` has the name of each, and the metric that it should have."""
    why, override = MISSING[next(iter(without.values()))]
    return refuse(NAME, f"{limit:g}", f"{why}: {listed(without)}. The gate cannot pass", override, error=GateNotJudged)


def _no_loader(limit: float) -> Exception:
    return refuse(
        NAME,
        f"{limit:g}",
        "loader=replay loads nothing, so there is nothing to judge",
        "loader=native",
        error=GateNotJudged,
    )


def listed(texts: Iterable[str]) -> str:
    """The first texts, and how many more there are."""
    names = list(texts)
    more = [f"and {len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []
    return "; ".join(names[:MAX_LISTED] + more)
