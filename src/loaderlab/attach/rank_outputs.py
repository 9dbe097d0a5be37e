"""The verdict over the ranks of a watched job, for its JSON file and its HTML page."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from loaderlab import metrics
from loaderlab.attach.publish import MOST_LINES
from loaderlab.attach.rank_results import RankResult, RanksReading
from loaderlab.report.page_frame import escaped
from loaderlab.report.rank_table import rank_table

COSTS = "the job loses if only this rank waits"
NUM_SEPARATE = 4  # columns of the table that do not need the time in collectives: rank, node, step time, starved share


def as_json(ranks: RanksReading) -> dict[str, Any]:
    """The entries of the result for a job: every rank, and the straggler."""
    verdict = ranks.verdict
    return {
        "num_ranks": verdict.num_ranks,
        "ranks": [_entry(result, ranks) for result in ranks.results],
        "ranks_because": verdict.sentence or ranks.reason,
        "job_starved_pct": verdict.lost_pct,
        "excess_pct": verdict.excess_pct,
        "straggler": None if verdict.straggler is None else asdict(verdict.straggler),
    }


def _entry(result: RankResult, ranks: RanksReading) -> dict[str, Any]:
    steps = result.window
    return {
        "rank": result.rank,
        "node": steps.node,
        "device": steps.facts.device,
        "measured_steps": len(steps.step),
        "reason": result.reason,
        "samples_per_s": result.figures.get(metrics.RATE),
        "starved_pct": result.starved_pct,
        "job_starved_pct": ranks.lost_pct.get(result.rank),
        "starved_ms": _mean(steps.starved_ms),
        "own_compute_ms": None if ranks.unseparated else _mean(steps.compute_ms),
        "collective_ms": None if ranks.unseparated else _mean(steps.length_ms - steps.own_ms),
    }


def _mean(values: Any) -> float | None:
    return float(values.mean()) if len(values) else None


def waits_text(ranks: RanksReading) -> str:
    """The mean wait of each rank next to what it costs the job; only the number of ranks if they are many."""
    judged = [result for result in ranks.results if result.rank in ranks.lost_pct]
    if len(judged) > MOST_LINES:
        judged = sorted(judged, key=lambda result: -ranks.lost_pct[result.rank])[:MOST_LINES]
    ms, share = metrics.metric(metrics.WAIT_MS), metrics.metric(metrics.STARVED_PCT)
    return ", ".join(
        f"rank {result.rank} {ms.quantity(_mean(result.window.starved_ms) or 0.0)}"
        f" (alone costs the job {share.quantity(ranks.lost_pct[result.rank])})"
        for result in judged
    )


def as_html(ranks: RanksReading) -> str:
    """The ranks as a part of a page: the sentence, and a table as in the report of a run."""
    columns, entries = rank_table(ranks.measured)
    shown = NUM_SEPARATE if ranks.unseparated else len(columns)
    rows = [row[:shown] for row in (columns, *entries)]
    rows[0].append(COSTS)
    for row in rows[1:]:
        row.append(metrics.metric(metrics.STARVED_PCT).quantity(ranks.lost_pct.get(int(row[0]), math.nan)))
    cells = "".join(f"<tr>{''.join(f'<td>{escaped(text)}</td>' for text in row)}</tr>" for row in rows)
    left_out = len(ranks.measured) - (len(rows) - 1)
    parts = [
        f'<div class="loaderlab-loop"><h3>{ranks.verdict.num_ranks} ranks</h3>',
        f"<p>{escaped(ranks.verdict.sentence or ranks.notes[0])}.</p>",
        f"<table><tbody>{cells}</tbody></table>" if len(rows) > 1 else "",
        f'<p class="soft">{left_out} ranks are left out: these are the slowest and the fastest.</p>'
        if left_out
        else "",
        "</div>",
    ]
    return "\n".join(part for part in parts if part) + "\n"
