"""A measured loop as HTML: for a notebook, and as a page of its own. It needs neither matplotlib nor a template engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from loaderlab import metrics
from loaderlab.diagnosis.evidence import (
    FED,
    INCONCLUSIVE,
    PARTLY,
    PARTLY_FROM_PCT,
    STARVED,
    STARVED_FROM_PCT,
    Advice,
)
from loaderlab.diagnosis.verdict import Verdict
from loaderlab.meter.step import Step
from loaderlab.report.page_frame import escaped, framed
from loaderlab.report.part_colours import COLOURS, PARTS
from loaderlab.report.wait_chart import wait_chart

GRADE_COLOURS = {FED: "#00704D", PARTLY: "#8A5A00", STARVED: "#B3400A", INCONCLUSIVE: "#59636E"}  # behind white text
MAIN = (  # rows of the table; the parts of the step are in the bar
    metrics.RATE,
    metrics.STEP_MS,
    metrics.STEP_P95_MS,
    metrics.STEP_MAX_MS,
    metrics.WAIT_PCT,
    metrics.STARVED_PCT,
    metrics.DELIVERY_PCT,
    metrics.EPOCH_GAP_PCT,
    metrics.FIRST_BATCH_S,
    metrics.CPU_PCT,
    metrics.DEVICE_PCT,
    metrics.HOST_PEAK_MIB,
    metrics.DEVICE_PEAK_MIB,
)
# Text and lines take the colour of the notebook or the page, so that they are readable in its light and its dark mode.
STYLE = """<style>
.loaderlab-loop { max-width: 60rem; line-height: 1.45; overflow-wrap: anywhere; }
.loaderlab-loop h3 { margin: .2rem 0 .5rem; font-size: 1.05em; font-weight: 600; }
.loaderlab-loop h4 { margin: 1rem 0 .3rem; font-size: 1em; font-weight: 600; }
.loaderlab-loop p { margin: .3rem 0; }
.loaderlab-loop ul { margin: .3rem 0; padding-left: 1.3em; }
.loaderlab-loop .grade { color: #fff; padding: .05em .5em .1em; border-radius: .3em; font-weight: 600; white-space: nowrap; }
.loaderlab-loop .grade, .loaderlab-loop i { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.loaderlab-loop .soft, .loaderlab-loop .legend, .loaderlab-loop .plot { font-size: .85em; }
.loaderlab-loop .soft { opacity: .75; }
.loaderlab-loop svg { display: block; width: 100%; }
.loaderlab-loop .bar svg { height: 1.6em; }
.loaderlab-loop .legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .35rem 0; }
.loaderlab-loop .legend i { display: inline-block; width: .75em; height: .75em; margin-right: .4em; }
.loaderlab-loop .plot { position: relative; padding: .6em 0 0 5em; font-variant-numeric: tabular-nums; }
.loaderlab-loop .plot svg { height: 9em; }
.loaderlab-loop .plot > span { position: absolute; left: 0; width: 4.5em; text-align: right; line-height: 1; opacity: .75;
  overflow-wrap: normal; white-space: nowrap; }
.loaderlab-loop .plot .top { top: .1em; } .loaderlab-loop .plot .mid { top: 4.6em; } .loaderlab-loop .plot .low { top: 9.1em; }
.loaderlab-loop .axis { display: flex; justify-content: space-between; opacity: .75; }
.loaderlab-loop table { width: auto; min-width: 0; margin: 1rem 0 .3rem; border-collapse: collapse; font-size: .9em; }
.loaderlab-loop table td { position: static; padding: .2em 1.2em .2em 0; border: 0; border-bottom: 1px solid rgba(128, 128, 128, .3);
  background: none; text-align: left; vertical-align: top; white-space: normal; }
.loaderlab-loop table td + td { padding-right: 0; font-variant-numeric: tabular-nums; }
</style>"""
MEANING = f"""<h2>How to read this page</h2>
<ul>
<li>"wait for the batch" is the time in the loader's <code>next</code>. The device is starved of data while it has no work because
data is missing.</li>
<li>{FED}: starved of data less than {PARTLY_FROM_PCT:.0f} % of the time. {STARVED}: {STARVED_FROM_PCT:.0f} % or more.
{INCONCLUSIVE}: the evidence is contradictory or too little.</li>
<li>The metrics leave out the warm-up and the first steps of each epoch. Brackets with "95 % CI" contain a confidence interval.</li>
</ul>
"""


def fragment(
    title: str,
    verdict: Verdict,
    figures: Mapping[str, float],
    steps: Sequence[Step],
    notes: Sequence[str] = (),
    *,
    window: Sequence[Step] | None = None,
) -> str:
    """An HTML fragment: the verdict, the parts of a mean step, the wait of each step, the main metrics.

    It loads nothing and runs no script; all texts are escaped.

    Args:
        title: of the loop; empty for no heading.
        figures: metrics of the loop; values that are not finite are left out.
        steps: all steps, including warm-up.
        notes: sentences below the metrics.
        window: the measured steps, see `loaderlab.diagnosis.figures.LoopRecord.window`; the chart shows the others in grey.
            None if all steps are measured.
    """
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    chart = wait_chart(steps, window, finite.get(metrics.STEP_MS))
    parts = [
        '<div class="loaderlab-loop">',
        STYLE,
        f"<h3>{escaped(title)}</h3>" if title else "",
        _verdict(verdict),
        _mean_step(finite),
        f"<h4>Wait of each step</h4>{chart}" if chart else "",
        _table(finite),
        f"<ul>{''.join(f'<li>{escaped(note)}</li>' for note in notes)}</ul>" if notes else "",
        "</div>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def page(title: str, fragments: Sequence[str], facts: Mapping[str, str] | None = None) -> str:
    """A self-contained page.

    Args:
        fragments: HTML from `fragment`, one for each loop.
        facts: name and value of what the loops have in common, such as the command and the device.
    """
    lines = [f'<p class="fact">{escaped(name)}: {escaped(value)}</p>\n' for name, value in (facts or {}).items()]
    loops = "".join(f'<div class="answer">{text}</div>\n' for text in fragments)
    return framed(title, f"<h1>{escaped(title)}</h1>\n{''.join(lines)}{loops}{MEANING}")


def _verdict(verdict: Verdict) -> str:
    """The grade as a coloured word, the sentence, the bottleneck, the slowest line and all advice."""
    colour = GRADE_COLOURS.get(verdict.grade, GRADE_COLOURS[INCONCLUSIVE])
    sentence = verdict.sentence.removeprefix(verdict.grade)
    lines = [
        f'<p><span class="grade" style="background:{colour}">{escaped(verdict.grade)}</span>{escaped(sentence)}.</p>'
    ]
    if verdict.bottleneck:
        lines.append(f"<p>Bottleneck: <b>{escaped(verdict.bottleneck)}</b>.</p>")
    if verdict.slow_line:
        lines.append(f"<p>Slow line: {escaped(verdict.slow_line)}.</p>")
    if verdict.advice:
        lines.append(f"<ul>{''.join(_advice(entry, verdict.render(entry)) for entry in verdict.advice)}</ul>")
    if verdict.capacity:
        lines.append(f"<p>Capacity: {escaped(verdict.capacity)}.</p>")
    return "\n".join(lines)


def _advice(advice: Advice, how: str) -> str:
    if not how:
        return f"<li>To do: {escaped(advice.sentence(how))}.</li>"
    return f"<li>Try <code>{escaped(how)}</code>{escaped(advice.sentence(how).removeprefix(how))}.</li>"


def _mean_step(figures: Mapping[str, float]) -> str:
    """The parts of a mean step as one bar, with their times and shares; empty if no step was measured."""
    parts = [(metrics.PHASE_MS[part], COLOURS[part]) for part in PARTS]
    if metrics.COMPUTE_MS in figures:  # without the time in collectives
        parts.append((metrics.COLLECTIVE_MS, COLOURS["forward"]))
    present = [(figures[name], metrics.metric(name), colour) for name, colour in parts if name in figures]
    total = sum(max(0.0, length) for length, _, _ in present)
    if total <= 0:
        return ""
    rectangles, entries, left = "", "", 0.0
    for length, metric, colour in present:
        share, label = 100 * max(0.0, length) / total, metric.label.partition(":")[0]
        rectangles += f'<rect x="{left:.2f}" width="{share:.2f}" height="1" fill="{colour}"/>'
        entries += (
            f'<span><i style="background:{colour}"></i>{label} {metric.quantity(length)} ({share:.1f}&nbsp;%)</span>'
        )
        left += share
    step = metrics.metric(metrics.STEP_MS)
    mean = f": {step.quantity(figures[step.name])}" if step.name in figures else ""
    return (
        f'<h4>Mean step{mean}</h4><div class="bar"><svg viewBox="0 0 100 1" preserveAspectRatio="none" role="img" '
        f'aria-label="parts of a mean step">{rectangles}</svg></div><div class="legend">{entries}</div>'
    )


def _table(figures: Mapping[str, float]) -> str:
    rows = [
        f"<tr><td>{entry.label}</td><td>{entry.text(figures[name])}{_interval(name, figures)}</td></tr>"
        for name in MAIN
        if name in figures
        for entry in [metrics.metric(name)]
    ]
    return f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def _interval(name: str, figures: Mapping[str, float]) -> str:
    """The confidence interval of the starved share; empty for other metrics or if there is none."""
    low, high = figures.get(metrics.STARVED_LOW_PCT), figures.get(metrics.STARVED_HIGH_PCT)
    if name != metrics.STARVED_PCT or low is None or high is None:
        return ""
    number = metrics.metric(name).number
    return f" (95 % CI {number(low)} to {number(high)})"
