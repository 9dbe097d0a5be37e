"""The gate ``fail_if.rate_below`` of a comparison."""

from __future__ import annotations

from loaderlab.compare.arms import Comparison
from loaderlab.compare.gate import judge_gate
from loaderlab.compare.stats import LEAST_PAIRS
from loaderlab.config import GateFailed, GateNotJudged, refuse
from loaderlab.report import sentences
from loaderlab.runs.utilization_gate import listed, not_finished, say_left_out
from loaderlab.system.terminal import Terminal

NAME = "fail_if.rate_below"


def check_comparison(comparison: Comparison, limit: float, terminal: Terminal, remedy: str = "") -> None:
    """Prints that the gate is passed, or raises.

    Args:
        remedy: what to type if a job has no run.

    Raises:
        GateNotJudged: an arm cannot be judged, so the gate is not passed.
        GateFailed: an arm's whole interval is below the limit.
    """
    gate = judge_gate(comparison, limit)
    if not gate.has_baseline:
        raise refuse(
            NAME,
            limit,
            "no arm has a baseline to be compared with",
            "baseline=loader:native",
            error=GateNotJudged,
        )
    unpaired = [arm.label for arm in gate.unpaired]
    if unpaired:
        raise GateNotJudged(f"{NAME}={limit:g}: no baseline run for {listed(unpaired)}, so the gate cannot pass")
    say_left_out(NAME, limit, comparison, terminal)
    if gate.unmeasured:
        raise not_finished(NAME, limit, gate.unmeasured, remedy)
    if gate.unclear:
        unclear = listed([arm.label for arm in gate.unclear])
        raise refuse(
            NAME,
            f"{limit:g}",
            f"fewer than {LEAST_PAIRS} repeats in common with the baseline: {unclear}. The gate cannot pass",
            "repeat=1,2,3 in the sweep",
            error=GateNotJudged,
        )
    if gate.below:
        gains = [
            f"{arm.label} is {sentences.compared(arm.gain, arm, arm.partner.label)}"
            for arm in gate.below
            if arm.partner
        ]
        raise GateFailed(f"{NAME}={limit:g}: the whole interval is below it: {listed(gains)}")
    count = len(gate.compared)
    terminal.say(f"{NAME}={limit:g}: passed by {count} arm{'s' * (count > 1)}")
