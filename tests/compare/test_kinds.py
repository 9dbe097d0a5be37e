"""Real runs and runs on emulated accelerators are never in one comparison, and the emulated ones are marked."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loaderlab.compare.comparison import compare
from loaderlab.compare.kinds import compare_kinds
from loaderlab.config import UserError
from loaderlab.report import arm_table, charts, page, sentences, step_charts
from loaderlab.tracking.records import NOT_APPLICABLE, Missing, RunRecord
from tests.records import arms, recorded


def emulated(
    rates: dict[str, list[float]], column: str = "loader.name", speed: int = 20, **more: Any
) -> list[RunRecord]:
    """Runs on an emulated accelerator with these rates: see `tests.records.arms`."""
    device = f"emulated custom: {speed} ms per batch of 64, {64_000 / speed:,.0f} samples/s (typed by the user)"
    tags = {"device.type": "emulated", "device.name": device}
    own = {"accelerator__name": "custom", "accelerator__step_ms": speed, **more}
    runs = arms(rates, column, tags=tags, **own)
    for run in runs:
        for name in ("train/loss", "val/loss", "val/accuracy"):
            del run.figures[name]  # type: ignore[attr-defined]
        for name in ("model.name", "precision.name"):
            del run.settings[name]  # type: ignore[attr-defined]
    return runs


REAL = {"native": [100.0, 101.0, 99.0], "dali": [200.0, 201.0, 199.0]}


def test_both_kinds_become_two_comparisons() -> None:
    missing = [Missing("emulated spdl", "failed", is_emulated=True), Missing("spdl", "failed")]
    real, on_emulated = compare_kinds("all runs", [*emulated(REAL), *arms(REAL)], missing)
    assert (real.title, on_emulated.title) == ("real devices: all runs", "emulated custom accelerator: all runs")
    assert [arm.label for arm in real.arms] == ["native", "dali"]
    assert [arm.label for arm in on_emulated.arms] == ["emulated native", "emulated dali"]
    assert [entry.name for entry in (*real.missing, *on_emulated.missing)] == ["spdl", "emulated spdl"]
    for comparison in (real, on_emulated):
        assert {run.is_emulated for arm in comparison.arms for run in arm.runs} == {comparison.is_emulated}
        assert comparison.arms[1].gain is not None


def test_mixed_runs_are_never_compared() -> None:
    with pytest.raises(AssertionError, match="never in one table"):
        compare("all runs", [*emulated(REAL), *arms(REAL)])


def test_a_run_that_failed_before_it_had_a_device_is_emulated_too() -> None:
    failed = recorded(0, status="FAILED", accelerator__name="custom", tags={"error": "it broke"})
    (real, on_emulated) = compare_kinds("all runs", [*arms(REAL), failed])
    assert (real.missing, [entry.why for entry in on_emulated.missing]) == ([], ["failed: it broke"])
    assert on_emulated.title == "emulated accelerators: all runs"
    assert sentences.headline(on_emulated) == []
    assert page.html(on_emulated, [])


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"accelerator": "none"}, r"baseline=accelerator:none: matches only runs on real devices, .* never compared"),
        ({"accelerator": "custom"}, "baseline=accelerator:custom: matches only runs on emulated accelerators"),
        ({"loader": "spdl"}, r"baseline=loader:spdl: matches only runs on real devices"),
    ],
)
def test_a_baseline_of_the_other_kind_is_refused(baseline: dict[str, str], message: str) -> None:
    runs = [*emulated(REAL), *arms(REAL | {"spdl": [1.0, 1.0, 1.0]}, accelerator__name="none")]
    with pytest.raises(UserError, match=message):
        compare_kinds("all runs", runs, baseline=baseline)


def test_a_baseline_that_both_kinds_have() -> None:
    for comparison in compare_kinds("all runs", [*emulated(REAL), *arms(REAL)], baseline={"loader": "dali"}):
        assert [arm.is_baseline for arm in comparison.arms] == [False, True]


def test_accelerators_of_different_speeds_are_different_hardware() -> None:
    counts = {"0": [100.0] * 3, "2": [200.0] * 3}
    runs = emulated(counts, "loader.num_workers") + emulated(counts, "loader.num_workers", speed=40)
    comparison = compare("a sweep", runs)
    assert comparison.columns == ["loader.num_workers"]
    assert comparison.title == "emulated custom accelerator: a sweep"
    titles = [arm_table.group_title(comparison, group) for group in comparison.groups]
    assert titles == [
        "device emulated custom: 20 ms per batch of 64, 3,200 samples/s (typed by the user)",
        "device emulated custom: 40 ms per batch of 64, 1,600 samples/s (typed by the user)",
    ]
    assert [[arm.label for arm in group.arms] for group in comparison.groups] == [
        ["emulated num_workers=0", "emulated num_workers=2"]
    ] * 2


@pytest.mark.parametrize(
    ("setting", "num_groups"),
    [("accelerator__copy_gb_per_s", 2), ("accelerator__steps_ahead", 2), ("accelerator__min_utilization", 1)],
)
def test_what_changes_an_accelerator(setting: str, num_groups: int) -> None:
    changes: list[dict[str, Any]] = [{setting: 4}, {setting: 8}]
    runs = [run for change in changes for run in emulated({"native": [100.0]}, **change)]
    comparison = compare("a sweep", runs)
    assert len(comparison.groups) == num_groups


def test_nothing_of_an_emulated_comparison_is_without_its_mark(tmp_path: Path) -> None:
    def steps(_run_id: str) -> step_charts.Series | None:
        lines = "epoch,step,num_samples,measured,host_wait_ms,host_forward_ms\n" + "0,0,64,1,1.0,2.0\n" * 20
        return step_charts.read_steps(lines)

    comparison = compare("a sweep", emulated(REAL))
    drawn = charts.draw(comparison, steps, tmp_path, "main_emulated.png")
    assert {chart.name for chart in drawn} == {f"{name}_emulated" for name in ("throughput", "phases", "waits", "cost")}
    for picture in tmp_path.glob("*.png"):
        with Image.open(picture) as image:
            assert "emulated custom: 20 ms per batch of 64, 3,200 samples/s" in image.info["Title"]
    text = page.html(comparison, drawn)
    headings = [line for line in text.splitlines() if line.startswith(("<title>", "<h1>"))]
    headings += [line for line in text.splitlines() if line.startswith("<h2>") and "How to read" not in line]
    assert len(headings) == 7
    assert all("emulated custom" in line for line in headings)
    (table,) = (line for line in page.markdown(comparison, []).splitlines() if line.startswith("**emulated"))
    assert table == "**emulated custom accelerator**"
    for rows in (page.as_csv(comparison), page.runs_as_csv(comparison)):
        for row in csv.DictReader(io.StringIO(rows)):
            assert row["arm"].startswith("emulated ")
            assert row["device"].startswith("emulated custom: 20 ms")
            assert not [name for name in row if "loss" in name or "accuracy" in name or "learn" in name]
    read = json.loads(page.as_json(comparison))
    assert "emulated" in read["title"]
    assert "learns_differently" not in read["groups"][0]["arms"][1]
    everything = "\n".join(
        [text, page.markdown(comparison, []), page.as_csv(comparison), *sentences.headline(comparison)]
    )
    assert "difference in learning" not in everything


def test_an_emulated_ladder_has_no_published_results() -> None:
    rates = {"single": [100.0] * 3, "workers": [200.0] * 3, "dali": [300.0] * 3}
    runs = emulated(rates, "rung", study="ladder")
    for number, run in enumerate(runs):
        run.settings["loader.num_workers"] = str(number % 3)  # type: ignore[index]
    reason = f"{NOT_APPLICABLE}: an emulated accelerator does no arithmetic"
    missing = [Missing("emulated rung=bf16", reason, is_emulated=True)]
    (comparison,) = compare_kinds("sweep study=ladder", runs, missing)
    assert comparison.title == "ladder, emulated custom accelerator: sweep study=ladder"
    assert (comparison.metric, comparison.is_ladder) == ("time/train_s", True)
    columns, rows = arm_table.arm_table(comparison, comparison.groups[0])
    assert [row[0] for row in rows] == ["emulated single", "emulated workers", "emulated bf16", "emulated dali"]
    assert rows[2][2] == "not applicable here"
    assert "published" not in columns
    text = page.html(comparison, [])
    assert "22.67" not in text
    assert "GPU" not in text
    assert "CUDA" not in text
