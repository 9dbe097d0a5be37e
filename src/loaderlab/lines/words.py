"""The slow lines in words: the sentence on the slowest one, and the rows of a table. Pure."""

from __future__ import annotations

from loaderlab.lines.shares import Part, SlowLines
from loaderlab.lines.stages import DATASET, WAITING

MOST_LINES = 8  # rows of a table of lines
LEAST_PCT = 1.0  # of the busy time and of the exposed time: smaller parts are left out of tables
ENOUGH_SAMPLES = 100  # of a profile: a share of a half has a 95 % CI of 10 points on both sides
WHOLE_FUNCTION_PCT = 10.0  # by how much the share of a function must exceed its line's to be worth mentioning
COLUMNS = ("share", "where", "stage", "how", "without it")


def sentence(lines: SlowLines) -> str:
    """What the slowest line costs, and why that may be wrong, without a full stop.

    Examples: ``61 % of the workers' time is augment.py:88 elastic_deform (computing); without it the loader would make 2.1x, the device can
    take 1.8x``; ``data.py:12 __getitem__ (computing) takes 61 % of the workers' time and is free: the training does not wait for it``.
    """
    return "; ".join(filter(None, [_slowest(lines), doubt(lines)]))


def _slowest(lines: SlowLines) -> str:
    top = lines.top
    whose = "the loader's time" if lines.num_workers == 0 else "the workers' time"
    share, what = f"{100 * top.share:.0f} % of {whose}", f"{top.line.place} ({how(top)})"
    if top.is_free:
        return f"{what} takes {share} and is free: the training does not wait for it"
    gain = lines.gain(top)
    function = _function(lines, top)
    if lines.num_workers == 0:
        return f"{share} is {what}{function}; without it a step would be {gain.run_x:.1f}x as fast"
    return f"{share} is {what}{function}; without it the loader would make {gain.loader_x:.1f}x, the device can take {gain.device_x:.1f}x"


def doubt(lines: SlowLines) -> str:
    """Why the shares may be wrong; empty if they come from enough samples."""
    reasons = []
    if lines.too_few_exposed:
        samples = f"{lines.num_exposed} samples were" if lines.num_exposed != 1 else "1 sample was"
        reasons.append(f"only {samples} taken while the training waited, so these are shares of all the worker's time")
    if (number := lines.num_counted) < ENOUGH_SAMPLES:
        reasons.append(f"only {number} samples count, so shares may be off by {98 / number**0.5:.0f} points")
    return "; ".join(reasons)


def _function(lines: SlowLines, top: Part) -> str:
    """A note if the line's whole function takes far more than the line."""
    own = next(part for part in lines.functions if _same_function(part, top))
    if 100 * (own.share - top.share) < WHOLE_FUNCTION_PCT:
        return ""
    return f", all of {top.line.function} {100 * own.share:.0f} %"


def _same_function(part: Part, top: Part) -> bool:
    return (part.stage, part.line.file, part.line.function) == (top.stage, top.line.file, top.line.function)


def how(part: Part) -> str:
    """The stage, if that says more than the line, and how it spends its time: ``transform ElasticDeform, computing``."""
    return part.spends if part.stage.kind == DATASET else f"{part.title}, {part.spends}"


def rows(lines: SlowLines, parts: tuple[Part, ...]) -> list[tuple[str, ...]]:
    """Rows of a table with the columns `COLUMNS`: the largest `MOST_LINES` parts of at least `LEAST_PCT` percent.

    Args:
        parts: the stages, lines or functions of ``lines``.
    """
    shown = [part for part in parts if _is_shown(part)][:MOST_LINES]
    return [(f"{_percent(part):.0f} %", _where(part), part.title, part.spends, _without(lines, part)) for part in shown]


def stages(lines: SlowLines) -> str:
    """The largest stages of the busy time: ``Its work: 61 % transform ElasticDeform, 22 % decode, 9 % collate``."""
    shown = [part for part in lines.stages if part.stage.kind != WAITING and _is_shown(part)][:MOST_LINES]
    return f"Its work: {', '.join(f'{_percent(part):.0f} % {part.title}' for part in shown)}"


def _is_shown(part: Part) -> bool:
    return max(part.wall_pct, 100 * part.share) >= LEAST_PCT


def _percent(part: Part) -> float:
    return part.wall_pct if part.stage.kind == WAITING else 100 * part.share


def _where(part: Part) -> str:
    return "" if part.stage.kind == WAITING else part.line.place


def _without(lines: SlowLines, part: Part) -> str:
    if part.stage.kind == WAITING:
        return ""
    return "free" if part.is_free else f"{lines.gain(part).run_x:.2f}x"


def facts(lines: SlowLines) -> str:
    """What was profiled, in one line: ``1 of 4 workers, 5.0 s, 97 % busy; the profiler took 1.9 %``: of the time."""
    who = "the loader in the training process" if lines.num_workers == 0 else f"1 of {lines.num_workers} workers"
    if lines.num_workers == 1:
        who = "the worker"
    return f"{who}, {lines.seconds:.1f} s, {lines.busy_pct:.0f} % busy; the profiler took {lines.cost_pct:.1f} %"
