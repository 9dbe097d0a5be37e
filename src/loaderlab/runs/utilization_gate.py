"""The gate ``fail_if.utilization_below`` of a run, a sweep and a comparison. It is judged after everything is recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from loaderlab import metrics
from loaderlab.compare.arms import Comparison
from loaderlab.compare.kinds import ON_EMULATED, REAL
from loaderlab.compare.utilization import Utilization, judge_utilization, utilization_metric
from loaderlab.config import GateFailed, GateNotJudged, TrainConfig, refuse
from loaderlab.system.terminal import Terminal

NAME = "fail_if.utilization_below"
MAX_LISTED = 5
NO_CEILING = "the ceiling was not measured, because it was switched off, or the run or its probe was too short"
SHARE_OF = {True: "the requested rate", False: "the ceiling"}  # of emulated accelerators, of real devices


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
    if metrics.RATE not in figures:  # then the run's warning says how many steps are needed
        raise GateNotJudged(
            f"{NAME}={limit:g}: no throughput was measured, because the run was too short: {name}. The gate cannot pass. The "
            "warning above has a setting that makes it long enough"
        )
    if metric not in figures:
        raise _not_measured(limit, [name])
    utilization = Utilization(name, metric, [figures[metric]])
    _fail_below(limit, [utilization])
    terminal.say(f"{NAME}={limit:g}: passed: {utilization}")


def check_comparison(comparison: Comparison, limit: float, terminal: Terminal, remedy: str = "") -> None:
    """Judges the gate of every arm of a sweep or comparison, and prints that it is passed.

    Args:
        remedy: what to type if a job has no run.

    Raises:
        GateNotJudged: an arm has no utilization, or a job has no run.
        GateFailed: the utilization of an arm is below the limit: its whole confidence interval, or with fewer than three
            repeats its median.
    """
    gate = judge_utilization(comparison)
    say_left_out(NAME, limit, comparison, terminal)
    if gate.unmeasured:
        raise not_finished(NAME, limit, gate.unmeasured, remedy)
    if gate.without:
        raise _not_measured(limit, gate.without)
    if not gate.judged:
        raise _no_loader(limit)
    _fail_below(limit, gate.judged)
    count, lowest = len(gate.judged), min(gate.judged, key=lambda entry: min(entry.values))
    emulated = comparison.is_emulated
    devices = f"{ON_EMULATED if emulated else REAL} (share of {SHARE_OF[emulated]})"
    terminal.say(f"{NAME}={limit:g}: passed by {count} arm{'s' * (count > 1)} on {devices}; the lowest: {lowest}")


def _fail_below(limit: float, judged: Iterable[Utilization]) -> None:
    below = [str(entry) for entry in judged if entry.is_below(limit)]
    if below:
        raise GateFailed(f"{NAME}={limit:g}: not reached: {listed(below)}")


def _not_measured(limit: float, without: Iterable[str]) -> Exception:
    """The error for real runs without a ceiling: ``without`` has the name of each arm."""
    return refuse(
        NAME,
        f"{limit:g}",
        f"{NO_CEILING}: {listed(without)}. The gate cannot pass",
        "measure.ceiling=true measure.probe_s=10",
        error=GateNotJudged,
    )


def _no_loader(limit: float) -> Exception:
    return refuse(
        NAME,
        f"{limit:g}",
        "loader=replay loads nothing, so there is nothing to judge",
        "loader=native",
        error=GateNotJudged,
    )


def say_left_out(gate: str, limit: float, comparison: Comparison, terminal: Terminal) -> None:
    """Prints how many runs a gate leaves out."""
    if count := comparison.num_left_out:
        runs = "1 run that did not finish is" if count == 1 else f"{count} runs that did not finish are"
        terminal.say(f"{gate}={limit:g}: {runs} left out, since other runs with the same settings finished")


def not_finished(gate: str, limit: float, unmeasured: Iterable[str], remedy: str) -> GateNotJudged:
    """The error for jobs without a value.

    Args:
        gate: the name of the setting.
        unmeasured: the name of each, and why.
        remedy: what to type; empty if there is nothing.
    """
    text = f"{gate}={limit:g}: not measured: {listed(unmeasured)}, so the gate cannot pass"
    return GateNotJudged(f"{text}. {remedy}" if remedy else text)


def listed(texts: Iterable[str]) -> str:
    """The first texts, and how many more there are."""
    names = list(texts)
    more = [f"and {len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []
    return "; ".join(names[:MAX_LISTED] + more)
