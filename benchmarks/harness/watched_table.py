"""The results of `benchmarks.watch_truths` as a table. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from benchmarks.harness.watched_runs import LOADERLAB, Result

POINTS = 3.0  # tolerated error of the share
HEAD = "| case | tool | n | truth, % | formula, % | reported, % | difference, points | steps | |"


def line(result: Result) -> str:
    """One run in a line."""
    name = f"{result.case}, repeat {result.repeat}, {result.tool}"
    if math.isnan(result.measured_pct):
        return (
            f"{name}: truth {result.truth.share_pct:.1f} %, nothing reported, {result.num_steps} steps, {result.grade}"
        )
    text = f"truth {result.truth.share_pct:.1f} % (formula {result.truth.formula_pct:.1f}), reported {result.measured_pct:.1f} %"
    return f"{name}: {text} ({result.error:+.1f}), {result.num_steps} steps, {result.grade}, {result.wall_s:.1f} s"


def is_close(result: Result) -> bool:
    """Whether the reported share is close to the true one; a share that was not reported is not."""
    return abs(result.error) <= POINTS


def is_right(results: Sequence[Result]) -> bool:
    """Whether loaderlab was close in all runs."""
    own = [result for result in results if result.tool == LOADERLAB]
    return bool(own) and all(map(is_close, own))


def table(results: Sequence[Result]) -> str:
    """A row per case and tool, and a line per tool about all its runs."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: result.key):
        groups.setdefault((result.case, result.tool), []).append(result)
    rows = [_row(case, tool, group) for (case, tool), group in groups.items()]
    tools = dict.fromkeys(result.tool for result in results)
    return "\n".join(
        [HEAD, "|---|---|---:|---:|---:|---:|---:|---:|---|", *rows, "", *(_sum(tool, results) for tool in tools)]
    )


def _row(case: str, tool: str, group: Sequence[Result]) -> str:
    def median(values: Sequence[float]) -> str:
        known = [value for value in values if not math.isnan(value)]
        return f"{statistics.median(known):.1f}" if known else "-"

    errors = [result.error for result in group if not math.isnan(result.error)]
    cells = [
        case,
        tool,
        f"{len(group)}",
        median([result.truth.share_pct for result in group]),
        median([result.truth.formula_pct for result in group]),
        median([result.measured_pct for result in group]),
        f"{min(errors):+.1f} to {max(errors):+.1f}" if errors else "-",
        f"{statistics.median([result.num_steps for result in group]):.0f}",
        "ok" if all(map(is_close, group)) else "WRONG",
    ]
    return f"| {' | '.join(cells)} |"


def _sum(tool: str, results: Sequence[Result]) -> str:
    own = [result for result in results if result.tool == tool]
    errors = [abs(result.error) for result in own if not math.isnan(result.error)]
    silent = len(own) - len(errors)
    close = sum(map(is_close, own))
    worst = f"; the largest difference is {max(errors):.1f} points" if errors else ""
    return f"{tool}: within {POINTS:g} points in {close} of {len(own)} runs, {silent} without a share{worst}"
