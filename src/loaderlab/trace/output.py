"""Prints a reading as JSON, or as a table with the verdict."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loaderlab.system.terminal import Terminal
from loaderlab.trace.analysis import Reading, Share

MOST_ROWS = 20  # steps in the table; of more steps, the worst ones
DIGITS = 3
COLUMNS = ("step", "step ms", "loader wait %", "device idle %", "starved %")


def as_json(reading: Reading, trace: str) -> str:
    """The reading as JSON text; values that are not known are null."""
    verdict = reading.verdict
    content = {
        "trace": trace,
        "verdict": verdict.grade,
        "bottleneck": verdict.bottleneck,
        "reason": verdict.because,
        "headroom_x": verdict.headroom_x,
        "overall": asdict(reading.overall),
        "starved_interval_pct": reading.starved_interval,
        "copy_pct": reading.copy_pct,
        "pid": reading.pid,
        "devices": [{"device": name, **asdict(share)} for name, share in reading.devices],
        "wait_ranges": dict(reading.waits),
        "notes": reading.notes,
        "steps": [{"step": number, **asdict(share)} for number, share in reading.steps],
    }
    return json.dumps(_rounded(content), indent=2, ensure_ascii=False)


def show(reading: Reading, trace: str, terminal: Terminal) -> None:
    """Prints a row for each step and one for all steps, then the notes and the verdict."""
    if reading.steps:
        shown, num_hidden = _worst(reading.steps)
        rows = [_row(str(number), share) for number, share in shown]
        rows.append(_row(f"all {reading.overall.num_steps}", reading.overall))
        terminal.table(Path(trace).name, COLUMNS, rows)
        if num_hidden:
            terminal.say(
                f"the table shows the {len(shown)} steps that lose the most time; the last row includes the other {num_hidden}"
            )
        terminal.say(_sources(reading))
    for note in reading.notes:
        terminal.say(f"note: {note}")
    terminal.say(str(reading.verdict))


def _worst(steps: tuple[tuple[int, Share], ...]) -> tuple[list[tuple[int, Share]], int]:
    """The steps to show, in order of time, and the number of the others."""

    def lost_time(index: int) -> tuple[float, float]:
        share = steps[index][1]
        shares = (share.starved_pct, share.wait_pct, share.idle_pct)
        known = next((value for value in shares if value is not None), 0.0)
        return known * (share.step_ms or 0.0), share.step_ms or 0.0

    chosen = sorted(sorted(range(len(steps)), key=lost_time, reverse=True)[:MOST_ROWS])
    return [steps[index] for index in chosen], len(steps) - len(chosen)


def _row(label: str, share: Share) -> tuple[str, ...]:
    shares = (share.wait_pct, share.idle_pct, share.starved_pct)
    length = "–" if share.step_ms is None else f"{share.step_ms:,.3f}"
    return label, length, *("–" if value is None else f"{value:.1f}" for value in shares)


def _sources(reading: Reading) -> str:
    waits = ", ".join(f"{name} ({count})" for name, count in reading.waits) or "unknown"
    devices = ", ".join(name for name, _ in reading.devices) or "none in the trace"
    return f"wait ranges: {waits}; GPU: {devices}; process: {reading.pid}"


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, DIGITS)
        case dict():
            return {key: _rounded(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_rounded(entry) for entry in value]
    return value
