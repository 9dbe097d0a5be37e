"""The verdict over the ranks of a watched job, for its JSON file and its HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loaderlab import metrics
from loaderlab.attach.rank_results import RankResult, RanksReading
from loaderlab.report.page_frame import escaped

MOST_ROWS = 16  # of the table
COLUMNS = ("rank", "node", "device", "samples/s", "waits for data", "own compute", "waits for others", "starved alone")


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
    steps = result.steps
    return {
        "rank": result.rank,
        "node": steps.node,
        "device": steps.facts.device,
        "measured_steps": len(steps.step),
        "reason": result.reason,
        "samples_per_s": result.figures.get(metrics.RATE),
        "starved_pct": result.starved_pct,
        "starved_ms": _mean(steps.starved_ms),
        "own_compute_ms": None if ranks.unseparated else _mean(steps.compute_ms),
        "collective_ms": None if ranks.unseparated else _mean(steps.length_ms - steps.own_ms),
    }


def _mean(values: Any) -> float | None:
    return float(values.mean()) if len(values) else None


def as_html(ranks: RanksReading) -> str:
    """The ranks as a part of a page: the sentence, and a table of the ranks whose own time is longest and shortest."""
    entries = [_entry(result, ranks) for result in _some(ranks.results)]
    left_out = len(ranks.results) - len(entries)
    rows = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in _cells(entry))}</tr>" for entry in entries)
    head = "".join(f"<td><b>{name}</b></td>" for name in COLUMNS)
    sentence = ranks.verdict.sentence or ranks.notes[0]
    return (
        f'<div class="loaderlab-loop"><h3>{ranks.verdict.num_ranks} ranks</h3>\n<p>{escaped(sentence)}.</p>\n'
        + (f"<table><tbody><tr>{head}</tr>{rows}</tbody></table>\n" if rows else "")
        + (
            f'<p class="soft">{left_out} ranks between the slowest and the fastest are left out.</p>\n'
            if left_out
            else ""
        )
        + "</div>\n"
    )


def _some(results: Sequence[RankResult]) -> Sequence[RankResult]:
    """At most `MOST_ROWS`: those that are not measured and the slowest first, then the fastest, each by rank."""
    if len(results) <= MOST_ROWS:
        return results
    slowest_first = sorted(results, key=lambda result: -(_mean(result.steps.own_ms) or float("inf")))
    half = MOST_ROWS // 2
    return [
        *sorted(slowest_first[:half], key=lambda result: result.rank),
        *sorted(slowest_first[-half:], key=lambda result: result.rank),
    ]


def _cells(entry: dict[str, Any]) -> list[str]:
    if entry["reason"]:
        return [str(entry["rank"]), entry["node"], entry["device"], f"not measured: {entry['reason']}"]
    ms, share, rate = (metrics.metric(name) for name in (metrics.STEP_MS, metrics.STARVED_PCT, metrics.RATE))
    times = [entry[name] for name in ("starved_ms", "own_compute_ms", "collective_ms")]
    return [
        str(entry["rank"]),
        entry["node"],
        entry["device"],
        "" if entry["samples_per_s"] is None else rate.number(entry["samples_per_s"]),
        *("" if time is None else ms.quantity(time) for time in times),
        "" if entry["starved_pct"] is None else share.quantity(entry["starved_pct"]),
    ]
