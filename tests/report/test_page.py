"""A comparison as sentences, tables and files. The page needs no network and escapes all text from runs."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loaderlab.compare.arms import Comparison
from loaderlab.compare.comparison import compare
from loaderlab.report import arm_table, bar_charts, chart_arms, charts, page, sentences, step_charts
from loaderlab.tracking.records import NOT_REACHED, Missing
from tests.records import arms, by_precision, recorded

STEPS = "\n".join(
    [
        "epoch,step,num_samples,measured,loss,host_wait_ms,host_transfer_ms,host_forward_ms,host_backward_ms,host_optimizer_ms,host_other_ms",
        *(f"0,{step},64,1,{2 / (step + 1):.4f},1.0,0.0,2.0,3.0,1.0,0.0" for step in range(40)),
    ]
)


def steps(_run_id: str) -> step_charts.Series | None:
    return step_charts.read_steps(STEPS)


def of(runs: list[Any], **options: Any) -> Comparison:
    return compare("a sweep", runs, **options)


def first(runs: list[Any], **options: Any) -> str:
    return sentences.headline(of(runs, **options))[0]


@pytest.mark.parametrize(
    ("rates", "start"),
    [
        ({"native": [100, 101, 99], "dali": [200, 202, 199]}, "dali is the fastest: 2.00x as fast as native (95 % CI "),
        (
            {"native": [100, 101, 99], "dali": [101, 100, 102]},
            "No difference shown: dali has the best median and is 1.01x as fast as native (95 % CI 0.96 to 1.06, n = 3).",
        ),
        (
            {"native": [200, 202, 198], "dali": [100, 100, 100]},
            "native, the baseline, is the fastest: 200 samples/s (range 198 to 202, n = 3). Every other arm is slower.",
        ),
        ({"native": [104, 101, 99], "dali": [99, 101, 100]}, "No arm is shown to be faster than native, the baseline"),
        (
            {"native": [100, 100], "dali": [200, 200]},
            "dali is 2.00x as fast as native (n = 2, too few for a confidence interval). A claim needs at least 3 repeats. "
            "Type: repeat=1,2,3",
        ),
        (
            {"native": [200, 200], "dali": [100, 100]},
            "native, the baseline, has the best median: 200 samples/s (range 200 to 200, n = 2). A claim needs at least 3 repeats.",
        ),
        (
            {"native": [100, 101, 99]},
            "Only one arm: native fp32, 100 samples/s (range 99 to 101, n = 3). There is no other arm to compare it with.",
        ),
        ({"native": [100, 100, 100], "replay": [900, 900, 900]}, "native: 100 samples/s"),
    ],
)
def test_the_first_sentence(rates: dict[str, list[float]], start: str) -> None:
    tags = {"arm": "native fp32"}
    assert first(arms(rates, tags=tags)).startswith(start)


def test_energy_is_not_described_as_speed() -> None:
    runs = arms({"native": [100] * 3}, figures={"energy/joules_per_sample": 2.0})
    runs += arms({"dali": [100] * 3}, figures={"energy/joules_per_sample": 1.0})
    assert first(runs, metric="energy/joules_per_sample").startswith(
        "dali is the most energy-efficient: 2.00x as energy-efficient as native (95 % CI 2.00 to 2.00, n = 3), with 1 J/sample"
    )


def test_the_compared_metric_has_one_column() -> None:
    runs = arms({"native": [100] * 3, "dali": [200] * 3}, figures={"energy/joules_per_sample": 2.0})
    for metric, names in (
        ("energy/joules_per_sample", ["J/sample"]),
        ("rate/samples_per_s", ["samples/s", "J/sample"]),
    ):
        comparison = of(runs, metric=metric)
        columns, rows = arm_table.arm_table(comparison, comparison.groups[0])
        assert [name for name in columns if name in ("samples/s", "J/sample")] == names
        assert {len(row) for row in rows} == {len(columns)}


def test_a_sweep_with_missing_repeats_is_resumed() -> None:
    runs = arms({"native": [100, 100], "dali": [200, 200]})
    missing = [Missing("repeat=3 loader=dali", NOT_REACHED)]
    assert first(runs, missing=missing).endswith("A claim needs at least 3 repeats. Type: -m resume=latest")


def test_the_best_of_many_may_be_ahead_by_chance() -> None:
    few = {"w0": [100.0, 100.0, 100.0], "w1": [104.0, 105.0, 106.5]}
    alone = arms(few, setting="loader.num_workers")
    assert "is the fastest" in first(alone)
    many = few | {f"w{number}": [90.0, 91.0, 92.0] for number in range(2, 12)}
    assert "As the best of 12 arms it may be ahead by chance." in first(arms(many, setting="loader.num_workers"))


def test_the_headline_has_the_cost_and_the_distance_to_the_ceiling() -> None:
    runs = arms({"native": [100] * 3}) + arms(
        {"dali": [200] * 3},
        figures={"memory/host_peak_mib": 1400.0, "starvation/efficiency_pct": 98.0, "starvation/headroom_x": 1.02},
    )
    lines = sentences.headline(of(runs))
    assert lines[1] == "It runs at 98 % of its ceiling: a faster loader would gain almost nothing."
    assert lines[2] == "It uses 1,400 MiB of host memory instead of 900."
    assert lines[3] == "No difference in learning shown."


def test_the_fastest_is_faster_than_every_other() -> None:
    rates: dict[str, list[float]] = {"native": [100.0, 101, 99], "dali": [151, 149, 150.5], "spdl": [150, 152, 149]}
    sentence = first(arms(rates))
    assert sentence.startswith("dali is 1.50x as fast as native (95 % CI ")
    assert sentence.endswith("No difference shown between it and spdl.")
    assert " is the fastest: " in first(arms(rates | {"spdl": [120.0, 121, 119]}))


@pytest.mark.parametrize(
    ("rates", "options", "text"),
    [
        (
            {"native": [100, 101, 99], "dali": [120, 121, 119], "replay": [150, 151, 149]},
            {"baseline": {"loader": "replay"}},
            "dali has the best median, but in their common repeats it is 0.80x as fast as replay (95 % CI ",
        ),
        (
            {"native": [100, 101, 150, 151, 152], "dali": [110, 112, 165]},
            {},
            "native, the baseline, has the best median: 150 samples/s (range 100 to 152, n = 5). "
            "But in their common repeats, dali is 1.10x as fast as native (95 % CI ",
        ),
        (
            {"dali": [100, 101, 99], "spdl": [120, 121, 119]},
            {"baseline": {"precision": "bf16"}},
            "spdl · fp32 has the best median: 120 samples/s (range 119 to 121, n = 3). This group has no baseline, so there are no gains.",
        ),
    ],
)
def test_a_sentence_agrees_with_the_interval(rates: dict[str, list[float]], options: dict[str, Any], text: str) -> None:
    other = [recorded(100, precision__name="bf16", batch_size=32)] if "spdl" in rates else []
    assert any(text in line for line in sentences.headline(of([*arms(rates), *other], **options)))


def test_each_arm_has_its_own_baseline() -> None:
    rates = {("native", "fp32"): 100, ("native", "bf16"): 101, ("dali", "fp32"): 100.5, ("dali", "bf16"): 200}
    runs = [
        recorded(rate * (1 + number * repeat % 3 / 100), repeat=repeat, loader__name=loader, precision__name=precision)
        for repeat in (1, 2, 3)
        for number, ((loader, precision), rate) in enumerate(rates.items())
    ]
    sentence = first(runs, baseline={"loader": "native"})
    assert re.match(
        r"dali · fp32: 1\.0.x as fast as native · fp32 \(.*\), no difference shown; "
        r"dali · bf16: 1\.9.x as fast as native · bf16 \(.*\)\. ",
        sentence,
    )
    assert "dali · bf16 has the best median: 20" in sentence


@pytest.mark.parametrize(
    ("verdicts", "start"),
    [
        (["fed"] * 3, "Its verdict is fed: a faster loader would gain little or nothing."),
        (["fed", "inconclusive", "starved"], "It is not clear what a faster loader would gain. Its verdict is "),
        (
            ["starved", "partly starved", "starved"],
            "It runs at 61 % of its ceiling: with a perfect loader it would run 1.63x as fast.",
        ),
    ],
)
def test_headroom_does_not_contradict_the_verdict(verdicts: list[str], start: str) -> None:
    figures = {"starvation/efficiency_pct": 61.0, "starvation/headroom_x": 1.63}
    runs = arms({"native": [100] * 3})
    runs += [
        recorded(200, repeat=number, loader__name="dali", figures=figures, tags={"verdict": verdict})
        for number, verdict in enumerate(verdicts, 1)
    ]
    assert any(line.startswith(start) for line in sentences.headline(of(runs)))


@pytest.mark.parametrize(
    ("rates", "sentence"),
    [
        (
            {"0": [50, 51, 49], "1": [99, 100, 101], "2": [101, 100, 102]},
            "By the medians, the knee is at 1 worker, within 5 % of the best count (2). Fewer workers are slower.",
        ),
        (
            {"0": [70, 60, 130], "1": [99, 100, 101]},
            "By the medians, the knee is at 1 worker, the best count. Fewer workers are not shown to be slower.",
        ),
        (
            {"0": [100, 101, 102], "1": [99, 100, 101]},
            "By the medians, 0 workers are enough: more gain less than 5 %.",
        ),
        ({"0": [50, 51], "1": [99, 100]}, None),
    ],
)
def test_the_sentence_on_the_knee(rates: dict[str, list[float]], sentence: str | None) -> None:
    lines = sentences.headline(of(arms(rates, setting="loader.num_workers")))
    assert [line for line in lines if line.startswith("By the medians")] == ([sentence] if sentence else [])


def test_a_cell_gives_the_number_of_runs_if_some_lack_the_metric() -> None:
    runs = arms({"native": [100] * 3, "dali": [200] * 3})
    known = {name: value for name, value in runs[0].figures.items() if name != "starvation/efficiency_pct"}
    runs[0] = replace(runs[0], figures=known)
    columns, rows = arm_table.arm_table(of(runs), of(runs).groups[0])
    assert [row[columns.index("of ceiling")] for row in rows] == ["67 %\nin 2 of 3", "67 %"]


def test_the_headline_says_if_a_loader_hides_a_gain() -> None:
    cells = {
        ("native", "fp32"): (100, 200),
        ("native", "bf16"): (100, 340),
        ("dali", "fp32"): (198, 200),
        ("dali", "bf16"): (335, 340),
    }
    runs = by_precision(cells)
    lines = sentences.headline(of(runs))
    assert (
        "bf16 over fp32: 1.70x at the ceiling, 1.00x with native: the loader hides the gain, since none is shown with it."
        in lines
    )
    assert "bf16 over fp32: 1.70x at the ceiling, 1.69x with dali: the loader does not hide the gain." in lines


def test_the_slow_line_of_an_arm_says_in_how_many_repeats_it_is_the_slowest() -> None:
    said = "{} % of the workers' time is augment.py:{} elastic (computing); without it the loader would make 2.0x"
    lines = [(50, 8), (61, 88), (58, 88)]
    tags = [{"slow_line": said.format(*line)} for line in lines]
    problem = {"slow_line": "no slow line: the training ended before the profile began, which is after the warm-up"}
    runs = [
        *(recorded(100, repeat=repeat, tags=tag) for repeat, tag in enumerate(tags, start=1)),
        *(recorded(200, repeat=repeat, loader__name="dali", tags=problem) for repeat in (1, 2, 3)),
    ]
    remarks = sentences.remarks(of(runs))
    assert f"native: {said.format(58, 88)} (the slowest line in 2 of 3 repeats)" in remarks
    assert f"dali: {problem['slow_line']}" in remarks
    assert f"native: {said.format(50, 8)}" in sentences.remarks(of([runs[0], runs[3]]))


def test_a_ladder_lists_the_rungs_that_are_not_applicable(tmp_path: Path) -> None:
    names = [("single", 100), ("workers", 200), ("persistent", 300)]
    runs = [
        recorded(rate, repeat=repeat, rung=rung, study="ladder", loader__num_workers=number)
        for repeat in (1, 2, 3)
        for number, (rung, rate) in enumerate(names)
    ]
    comparison = of(runs, missing=[Missing("rung=pinned", "not applicable here: no GPU")], metric="time/train_s")
    columns, rows = arm_table.arm_table(comparison, comparison.groups[0])
    assert [row[0] for row in rows] == ["single", "workers", "pinned", "persistent"]
    assert rows[2][2] == "not applicable here"
    assert dict(zip(columns, rows[1], strict=True))["over previous rung"] == "2.00x (2.00–2.00)"
    assert dict(zip(columns, rows[3], strict=True))["over first rung"] == "3.00x (3.00–3.00)"
    published = [dict(zip(columns, row, strict=True))["published"] for row in rows]
    assert published == ["22.67 s", "2.48x", "–", "–"]
    assert any("not known in full" in line for line in sentences.remarks(comparison))
    assert next(chart.name for chart in charts.draw(comparison, steps, tmp_path, "main.png")) == "ladder"


EVIL = '<img src=x onerror="alert(1)">$x^{2$'


def test_a_page_is_one_file_and_escapes_html(tmp_path: Path) -> None:
    runs = arms({EVIL: [100] * 3, "dali": [200] * 3}, figures={"machine/busy_pct": 90.0}, tags={"versions": EVIL})
    comparison = of([*runs, recorded(0, status="FAILED", loader__name="dali", tags={"error": EVIL})])
    drawn = charts.draw(comparison, steps, tmp_path, "main.png")
    text = page.html(comparison, drawn)
    assert "<img" not in text
    assert "&lt;img src=x onerror=" in text
    assert "<script" not in text
    outside = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert {address.split("/")[2] for address in outside} <= {"www.w3.org"}  # SVG namespaces, which are not fetched
    assert not re.findall(r"(?:src|href)=\"(?!#)", text)
    names = {chart.name for chart in drawn}
    assert {"throughput", "phases", "loss", "waits", "cost"} <= names
    assert {path.stem for path in tmp_path.glob("*.png")} == names | {"main"}
    assert "var(--ink)" in text
    assert "<img" not in page.markdown(comparison, [])


def test_csv_and_json_for_machines() -> None:
    comparison = of(arms({"native": [100, 110, 90], "dali": [200, 220, 180]}))
    native, dali = csv.DictReader(io.StringIO(page.as_csv(comparison)))
    assert (native["arm"], native["n"], native["gain"], dali["over"]) == ("native", "3", "", "native")
    assert float(dali["gain"]) == pytest.approx(2)
    assert float(dali["rate/samples_per_s"]) == 200
    (group,) = json.loads(page.as_json(comparison))["groups"]
    assert group["baseline"] == "native"
    assert group["arms"][1]["gain"]["shown"] is True
    assert [run["figures"]["rate/samples_per_s"] for run in group["arms"][1]["runs"]] == [200, 220, 180]


def test_a_noisy_loader_does_not_hide_a_gain() -> None:
    rates = {"fp32": [100, 130, 95], "bf16": [170, 160, 210]}
    runs = [
        recorded(
            rate,
            repeat=repeat,
            loader__name=loader,
            precision__name=precision,
            figures={"rate/ceiling_samples_per_s": {"fp32": 200.0, "bf16": 338.0}[precision]},
        )
        for loader in ("native", "dali")
        for precision, values in rates.items()
        for repeat, rate in enumerate(values, 1)
    ]
    assert any("too noisy to show whether the loader hides the gain" in line for line in sentences.headline(of(runs)))


def test_only_some_of_many_arms_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart_arms, "MAX_BARS", 6)
    runs = [recorded(100 + count, loader__num_workers=count) for count in range(10)]
    comparison = of(runs)
    drawn = {chart.name: chart for chart in charts.draw(comparison, steps, tmp_path, "main.png")}
    assert "(only the baseline and the best arms, 8 of 10)" in drawn["loss"].caption
    assert "Only the baseline and the best arms are drawn, 6 of 10." in drawn["throughput"].caption
    assert len(page.html(comparison, list(drawn.values()))) < 3_000_000


def test_a_stall_stays_visible_in_few_points() -> None:
    waits = np.zeros(100_000)
    waits[54_321] = 500.0
    places, heights = step_charts.binned(np.arange(100_000.0), waits, np.nanmax)
    assert (len(places), heights.max()) == (step_charts.POINTS, 500)


def test_runs_whose_steps_are_lost_still_make_a_page(tmp_path: Path) -> None:
    comparison = of(arms({"native": [100] * 3, "dali": [200] * 3}))
    assert {chart.name for chart in charts.draw(comparison, lambda _run_id: None, tmp_path, "main.png")} == {
        "throughput",
        "phases",
        "cost",
    }


def test_a_rungs_bar_shows_the_starved_share() -> None:
    """On a device with a queue, a host that waits does not mean that the device does."""
    runs = [
        recorded(
            100.0,
            repeat=repeat,
            rung=rung,
            study="ladder",
            figures={"starvation/wait_pct": 99.0, "starvation/starved_pct": 0.0},
        )
        for repeat in (1, 2, 3)
        for rung in ("single", "workers")
    ]
    comparison = compare("the sweep", runs, metric="time/train_s")
    (axis,) = bar_charts.ladder(comparison.groups[0], comparison).axes
    assert all("starved 0 %" in text.get_text() for text in axis.texts)
    assert len(axis.texts) == 2
