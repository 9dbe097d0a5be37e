"""The ranks of a job as a table, for the terminal and for the page of the run."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab import metrics
from loaderlab.diagnosis.ranks import RankSteps, RanksVerdict
from loaderlab.report.markdown import escape, markdown_table

MOST_ROWS = 16
STEP, STARVED, RATE = (metrics.metric(name) for name in (metrics.STEP_MS, metrics.STARVED_PCT, metrics.LOADER_RATE))
COLUMNS = (
    "rank",
    "node",
    STEP.column,
    STARVED.column,
    f"own compute {STEP.unit}",
    f"in collectives {STEP.unit}",
    f"loader alone, {RATE.unit}",
)


def rank_table(ranks: Sequence[RankSteps]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and a row for each rank, in the order of their numbers.

    Of more than 16 ranks, only the 15 slowest and the fastest are shown, by their own time (starved and own compute). The loader
    alone has no column if no rank has measured it.
    """
    shown = [rank for rank in ranks if len(rank.step)]
    if len(shown) > MOST_ROWS:
        by_time = sorted(shown, key=lambda rank: float(rank.own_ms.mean()))
        shown = [by_time[0], *by_time[1 - MOST_ROWS :]]
    rows = [_row(rank) for rank in sorted(shown, key=lambda rank: rank.rank)]
    if any(rank.facts.loader_rate is not None for rank in shown):
        return list(COLUMNS), rows
    return list(COLUMNS[:-1]), [row[:-1] for row in rows]


def _row(rank: RankSteps) -> list[str]:
    step, own, compute = (float(values.mean()) for values in (rank.length_ms, rank.own_ms, rank.compute_ms))
    starved_pct = 100 * float(rank.starved_ms.sum() / rank.length_ms.sum())
    rate = rank.facts.loader_rate
    return [
        str(rank.rank),
        rank.node,
        STEP.number(step),
        STARVED.cell(starved_pct),
        STEP.number(compute),
        STEP.number(max(0.0, step - own)),
        "" if rate is None else RATE.number(rate),
    ]


def ranks_section(verdict: RanksVerdict, ranks: Sequence[RankSteps]) -> str:
    """The part of a run's Markdown page about its ranks: the verdict and the table."""
    columns, rows = rank_table(ranks)
    lines = ["", "## Ranks", "", f"{escape(verdict.sentence[:1].upper() + verdict.sentence[1:])}.", ""]
    if len(rows) < sum(len(rank.step) > 0 for rank in ranks):
        lines += [f"The {MOST_ROWS - 1} slowest ranks and the fastest, of {verdict.num_ranks:,}:", ""]
    return "\n".join(lines) + "\n" + markdown_table(columns, rows)
