"""The texts of a comparison's files: one HTML page, Markdown for a wiki, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from loaderlab.compare.arms import ComparedArm, Comparison, short
from loaderlab.compare.ladder import MEANING
from loaderlab.compare.stats import Ratio, median
from loaderlab.parity.status import PARITY
from loaderlab.report import sentences
from loaderlab.report.arm_table import arm_table, group_title
from loaderlab.report.charts import Chart
from loaderlab.report.markdown import markdown_table
from loaderlab.report.page_frame import framed
from loaderlab.tracking.records import RunRecord

TEMPLATE = Path(__file__).with_name("page.html")
EMULATED_FACT = (
    "the accelerator is a timeline of the given speed whose steps compute nothing. Its results are never compared with those of "
    "a real device"
)
DEVICE_COLUMN = ["device"]  # of the emulated accelerators, whose speeds may differ
SHARED = (
    "data.name",
    "model.name",
    "model.step",
    "batch_size",
    "epochs",
    "steps",
    "loader.name",
    "precision.name",
    "optimizer.name",
)


def facts(comparison: Comparison) -> dict[str, str]:
    """The values that all runs share, by label: work, hardware, versions and more."""
    runs = [run for arm in comparison.arms for run in arm.runs]
    shared = {}
    values_of = [(name, {run.settings.get(name, "null") for run in runs}) for name in SHARED]
    work = [
        f"{short(name)} {values.pop()}" for name, values in values_of if len(values) == 1 and values - {"null", "auto"}
    ]
    if work:
        shared["work"] = ", ".join(work)
    for label, tag in (
        ("samples", "data.samples"),
        ("device", "device.name"),
        ("versions", "versions"),
        ("commit", "git.commit"),
        ("parity", PARITY),
    ):
        values = {run.tags[tag] for run in runs if tag in run.tags}
        if len(values) == 1:
            shared[label] = values.pop()
    if comparison.is_emulated:
        shared["emulated"] = EMULATED_FACT
    shared["runs"] = f"{len(runs)} in {len(comparison.arms)} arms"
    return shared


def html(comparison: Comparison, charts: Sequence[Chart]) -> str:
    """One self-contained page; every text from a run is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    tables = []
    for group in comparison.groups:
        columns, rows = arm_table(comparison, group)
        tables.append({"title": group_title(comparison, group), "columns": columns, "rows": rows})
    drawn = [{"title": chart.title, "caption": chart.caption, "svg": Markup(chart.svg)} for chart in charts]
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=comparison.title,
        facts=facts(comparison),
        headline=sentences.headline(comparison),
        tables=tables,
        remarks=sentences.remarks(comparison),
        missing=comparison.missing,
        charts=drawn,
        rungs=MEANING if comparison.study == "ladder" else {},
    )
    return framed(comparison.title, body)


def markdown(comparison: Comparison, links: Sequence[str]) -> str:
    """The page as Markdown without the pictures, for a wiki, a pull request, or the page of a sweep in MLflow.

    Args:
        links: Markdown links to put below the headline: a picture, another page.
    """
    lines = [_plain(f"{line}\n") for line in sentences.headline(comparison)]
    lines += [text for link in links for text in (link, "")]
    for group in comparison.groups:
        title = group_title(comparison, group)
        lines += [f"**{_plain(title)}**", ""] if title else []
        lines += [markdown_table(*arm_table(comparison, group))]
    for title, listed in (
        ("Caveats", sentences.remarks(comparison)),
        ("Not measured", [f"{entry.name}: {entry.why}" for entry in comparison.missing]),
    ):
        lines += [f"**{title}**", "", *(f"- {_plain(line)}" for line in listed), ""] if listed else []
    lines += ["**Measured with**", "", *(f"- {name}: {_plain(value)}" for name, value in facts(comparison).items())]
    return "\n".join(lines) + "\n"


def titled_markdown(comparison: Comparison, links: Sequence[str]) -> str:
    """The page as Markdown, with its title."""
    return f"# {_plain(comparison.title)}\n\n{markdown(comparison, links)}"


def as_csv(comparison: Comparison) -> str:
    """A CSV table with a row for each arm: its settings, n, medians, and the gain with its interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = sorted({name for arm in comparison.arms for run in arm.runs for name in run.figures})
    settings = list(dict.fromkeys([*(name for arm in comparison.arms for name in arm.settings)]))
    writer.writerow(
        [
            "group",
            "arm",
            *DEVICE_COLUMN * comparison.is_emulated,
            *settings,
            "n",
            "over",
            "gain",
            "gain_low",
            "gain_high",
            "pairs",
            *["learns_differently"] * (not comparison.is_emulated),
            "verdict",
            *names,
        ]
    )
    for number, group in enumerate(comparison.groups):
        for arm in group.arms:
            gain = arm.gain
            gain_cells = (
                ["", "", "", ""]
                if gain is None
                else [_number(gain.value), _number(gain.low), _number(gain.high), str(gain.num_pairs)]
            )
            row = [str(number + 1), arm.label, *_device(arm.runs[0]) * comparison.is_emulated]
            row += [*(arm.settings[name] or "" for name in settings), str(len(arm.runs))]
            row += [arm.partner.label if arm.partner else "", *gain_cells]
            row += ["; ".join(arm.learning)] * (not comparison.is_emulated)
            writer.writerow([*row, arm.verdicts, *(_number(arm.median(name)) for name in names)])
    return out.getvalue()


def runs_as_csv(comparison: Comparison) -> str:
    """A CSV table with a row for each run: its settings and all its metrics, as recorded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    runs = [(arm, run) for arm in comparison.arms for run in arm.runs]
    figures = sorted({name for _, run in runs for name in run.figures})
    settings = list(dict.fromkeys(name for arm, _ in runs for name in arm.settings))
    emulated = comparison.is_emulated
    writer.writerow(["run_id", "name", "arm", *DEVICE_COLUMN * emulated, *settings, *figures])
    for arm, run in runs:
        row = [run.run_id, run.name, arm.label, *_device(run) * emulated]
        row += [arm.settings[name] or "" for name in settings]
        writer.writerow([*row, *(repr(run.figures[name]) if name in run.figures else "" for name in figures)])
    return out.getvalue()


def _device(run: RunRecord) -> list[str]:
    return [run.tags.get("device.name", "")]


def as_json(comparison: Comparison) -> str:
    """The whole comparison as JSON, including the metrics of every run."""
    return json.dumps(
        {
            "title": comparison.title,
            "metric": comparison.metric,
            "study": comparison.study,
            "headline": sentences.headline(comparison),
            "facts": facts(comparison),
            "columns": comparison.columns,
            "groups": [
                {
                    "work": group.work,
                    "baseline": group.baseline.label if group.baseline else None,
                    "arms": [_arm(arm) for arm in group.arms],
                }
                for group in comparison.groups
            ],
            "not_measured": [{"name": entry.name, "why": entry.why} for entry in comparison.missing],
            "remarks": sentences.remarks(comparison),
        },
        indent=1,
    )


def _arm(arm: ComparedArm) -> dict[str, Any]:
    return {
        "arm": arm.label,
        "settings": arm.settings,
        "n": len(arm.runs),
        "median": median(arm.values),
        "interval": arm.interval,
        "over": arm.partner.label if arm.partner else None,
        "gain": _ratio(arm.gain),
        "gain_as_best_of_all": _ratio(arm.strict),
        "gain_over_the_one_before": _ratio(arm.over_previous),
        **({} if arm.is_emulated else {"learns_differently": arm.learning}),
        "verdict": arm.verdicts,
        "notes": arm.notes,
        "runs": [{"run_id": run.run_id, "name": run.name, "figures": dict(run.figures)} for run in arm.runs],
    }


def _ratio(gain: Ratio | None) -> dict[str, Any] | None:
    if gain is None:
        return None
    return {"value": gain.value, "low": gain.low, "high": gain.high, "pairs": gain.num_pairs, "shown": gain.shown}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _plain(text: str) -> str:
    return text.replace("<", "&lt;")
