"""The result of watching a program: as text for the terminal, as JSON, as an HTML page."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from loaderlab import metrics
from loaderlab.attach import rank_outputs
from loaderlab.attach.rank_results import RanksReading
from loaderlab.attach.reading import JudgedLoader, Reading
from loaderlab.lines import words
from loaderlab.report.loop_html import fragment, page
from loaderlab.report.slow_lines_html import slow_lines_fragment

WIDTH = 120
INDENT = "  "


def text(reading: Reading, name: str) -> str:
    """The verdict with its evidence, in lines for a terminal.

    Args:
        name: of the program: ``train.py``.
    """
    job, ranks = reading.job, reading.ranks
    whose = f"{name}{_on_ranks(ranks)}" if ranks is not None else name
    lines = [f"{whose}: {job.verdict.sentence}."]
    if job.verdict.bottleneck:
        lines.append(f"Bottleneck: {job.verdict.bottleneck}.")
    if ranks is not None and ranks.verdict.sentence:
        lines.append(f"Ranks: {ranks.verdict.sentence.removeprefix('ranks are ')}.")
    lines += [f"Loader: {loader_line(entry)}" for entry in reading.loaders[:1] if len(reading.loaders) == 1]
    each = " on each rank" if ranks is not None and ranks.lost_pct else ""
    lines += [f"Try{each} {advice}." if how else f"To do{each}: {advice}." for how, advice in _advice(job)]
    if job.figures:
        lines.append(_steps_line(job, ranks))
    if ranks is not None and ranks.lost_pct:
        lines.append(f"Waits in a mean step: {rank_outputs.waits_text(ranks)}.")
    if len(reading.loaders) > 1:
        lines += [f"Loader {loader_line(entry)}: {entry.verdict.sentence}." for entry in reading.loaders]
    lines += _slow_lines(reading)
    lines += [f"Evaluation: {loader_line(entry)}{_waited(entry)}" for entry in reading.others]
    lines += [f"Note: {note}." for note in _notes(reading)]
    wrapped = [
        textwrap.fill(
            line, WIDTH, initial_indent=INDENT * (index > 0), subsequent_indent=INDENT * 2, break_on_hyphens=False
        )
        for index, line in enumerate(lines)
    ]
    return "loaderlab: " + "\n".join(wrapped)


def _slow_lines(reading: Reading) -> list[str]:
    """The slowest line of the loader, and the stages of a worker; nothing if no profile was asked for."""
    if (slow := reading.slow) is None:
        return []
    if slow.lines is None:
        return [f"Slow line: none. {slow.problem[:1].upper()}{slow.problem[1:]}."]
    return [f"Slow line: {slow.sentence}.", f"Profiled: {words.facts(slow.lines)}. {words.stages(slow.lines)}."]


def _on_ranks(ranks: RanksReading) -> str:
    """Whether the verdict is on the whole job, or on its first rank."""
    number = ranks.verdict.num_ranks
    return f" on {number} ranks" if ranks.verdict.lost_pct is not None else f", rank 0 of {number}"


def _notes(reading: Reading) -> list[str]:
    return [*reading.notes, *(reading.ranks.notes if reading.ranks is not None else ())]


def one_line(reading: Reading, name: str) -> str:
    """The verdict in one line, for the ranks other than the first."""
    return f"loaderlab: {name}: {reading.job.verdict.sentence}."


def loader_line(entry: JudgedLoader) -> str:
    """A loader, where it was made, and its settings."""
    facts, parts = entry.facts, []
    if facts.kind == "torch":
        parts = ["1 worker" if facts.num_workers == 1 else f"{facts.num_workers} workers"]
    if facts.batch_size:
        parts.append(f"batch size {facts.batch_size}")
    if entry.num_objects > 1:
        parts.append(f"created {entry.num_objects} times")
    made = f" made at {entry.made_at}" if entry.made_at else ""
    settings = f" ({', '.join(parts)})" if parts else ""
    return f"{facts.title}{made}{settings}"


def _advice(entry: JudgedLoader) -> list[tuple[str, str]]:
    verdict = entry.verdict
    return list(zip(map(verdict.render, verdict.advice), verdict.to_try, strict=True))


def _waited(entry: JudgedLoader) -> str:
    share = entry.figures.get(metrics.WAIT_PCT)
    return "" if share is None else f", waited {share:.1f} % of its time"


def _steps_line(job: JudgedLoader, ranks: RanksReading | None) -> str:
    figures, loop = job.figures, job.loop
    step, wait = figures.get(metrics.STEP_MS), figures.get(metrics.PHASE_MS["wait"])
    parts = [f"Measured: {len(loop.window)} of {len(loop.steps)} optimizer steps"]
    if ranks is not None and ranks.verdict.lost_pct is not None and step is not None:
        lost = fmean(entry.starved_ms for entry in loop.window)
        parts.append(f"a step takes {step:.3g} ms, and the job loses {lost:.3g} ms of it to waiting for data")
    elif step is not None and wait is not None:
        parts.append(f"a step takes {step:.3g} ms, including {wait:.3g} ms of waiting")
    if (rate := figures.get(metrics.RATE)) is not None:
        parts.append(f"{rate:,.0f} samples/s")
    return "; ".join(parts)


# ---- JSON --------------------------------------------------------------------------------------------------------------


def as_json(reading: Reading, name: str) -> str:
    """The result as JSON; a number that is not finite becomes null."""
    job = reading.job
    content = {
        "program": name,
        **_verdict(job),
        "loader": _loader(job) if reading.loaders else None,
        "others": [
            {
                "role": entry.role,
                **(_verdict(entry) if entry.role == "training" else {"figures": entry.figures}),
                "loader": _loader(entry),
            }
            for entry in [*(reading.loaders if len(reading.loaders) > 1 else ()), *reading.others]
        ],
        "notes": _notes(reading),
        "device": reading.device,
        **({} if reading.slow is None else {"slow_lines": reading.slow.as_json()}),
        **(rank_outputs.as_json(reading.ranks) if reading.ranks is not None else {}),
    }
    return json.dumps(_finite(content), indent=1) + "\n"


def _verdict(entry: JudgedLoader) -> dict[str, Any]:
    verdict = entry.verdict
    return {
        "verdict": verdict.grade,
        "because": verdict.because,
        "bottleneck": verdict.bottleneck,
        "headroom_x": verdict.headroom_x,
        "advice": verdict.to_try,
        "figures": entry.figures,
    }


def _loader(entry: JudgedLoader) -> dict[str, Any]:
    facts = asdict(entry.facts)
    return {
        "made_at": entry.made_at,
        "class": facts.pop("title"),
        **{key: facts[key] for key in _SETTINGS},
        "objects": entry.num_objects,
    }


_SETTINGS = ("kind", "num_workers", "prefetch_factor", "pin_memory", "persistent_workers", "batch_size", "stack")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- HTML --------------------------------------------------------------------------------------------------------------


def as_html(reading: Reading, name: str) -> str:
    """The result as a standalone page."""
    several = reading.loaders if len(reading.loaders) > 1 else ()
    notes = [f"Loader: {loader_line(entry)}" for entry in reading.loaders if not several]
    notes += [f"Evaluation: {loader_line(entry)}{_waited(entry)}" for entry in reading.others] + _notes(reading)
    ranks = [rank_outputs.as_html(reading.ranks)] if reading.ranks is not None else []
    slow = [] if reading.slow is None else [slow_lines_fragment(reading.slow)]
    parts = [_part("", reading.job, notes), *slow, *ranks, *(_part(loader_line(entry), entry) for entry in several)]
    return page(name, parts, {"device": reading.device} if reading.device else None)


def _part(title: str, entry: JudgedLoader, notes: Sequence[str] = ()) -> str:
    return fragment(title, entry.verdict, entry.figures, entry.loop.steps, notes, window=entry.loop.window)
