"""The capacity of a host for emulated accelerators in a comparison: the curve over workers, sentences, table and picture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from loaderlab.compare.arms import Comparison
from loaderlab.compare.capacity import CapacityCurve, capacity_curves
from loaderlab.compare.comparison import compare
from loaderlab.report import capacity_chart, charts, page, sentences
from loaderlab.report.arm_table import arm_table
from loaderlab.report.on_terminal import show_tables
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.records import RunRecord
from tests.records import arms, recorded

ONE = 450.0  # samples/s that one worker delivers


def run(speed: float, workers: int, repeat: int = 1, *, cores: int = 8, name: str = "custom", **more: Any) -> RunRecord:
    """A run whose loader scales up to the number of cores."""
    alone = ONE * max(1, min(workers, cores))
    rate = min(speed, alone)
    return recorded(
        rate,
        repeat=repeat,
        loader__num_workers=workers,
        accelerator__name=name,
        accelerator__samples_per_s=speed,
        tags={"device.type": "emulated", "device.name": f"emulated {name}: {speed:,.0f} samples/s"},
        figures={
            "capacity/utilization_pct": 100 * rate / speed,
            "capacity/accelerators_fed": alone / speed,
            "capacity/workers_needed": speed / ONE,
            "capacity/cores_needed": 1.5 * speed / ONE,
            "rate/loader_samples_per_s": alone,
        },
        **more,
    )


def study(speeds: Mapping[float, tuple[int, ...]], **more: Any) -> Comparison:
    """A study of speeds, each with its worker counts."""
    runs = [
        run(speed, workers, repeat, **more) for repeat in (1, 2, 3) for speed in speeds for workers in speeds[speed]
    ]
    return compare("sweep study=capacity", runs)


def curve(speed: float, counts: tuple[int, ...], **more: Any) -> CapacityCurve:
    [only] = capacity_curves(study({speed: counts}, **more))
    return only


def test_the_curve_of_each_speed_is_one_line() -> None:
    curves = capacity_curves(study({2000: (0, 1, 2), 250: (0, 1, 2)}))
    assert [entry.requested_rate for entry in curves] == pytest.approx([250, 2000])
    assert [count for count, _ in curves[0].arms] == [0, 1, 2]
    assert curves[1].rate_of_one == pytest.approx(ONE)
    assert [curves[1].estimate(count) for count in (0, 1, 4, 8)] == [None, *map(pytest.approx, (0.225, 0.9, 1.0))]


def test_the_fewest_workers_that_reach_the_threshold() -> None:
    enough = curve(1000, (1, 2, 4)).enough  # 45, 90 and 100 %
    assert enough is not None
    assert enough[0] == 2
    stricter = curve(1000, (1, 2, 4), accelerator__min_utilization=0.91).enough
    assert stricter is not None
    assert stricter[0] == 4
    assert curve(4000, (0, 1, 2)).enough is None


def test_a_real_comparison_has_no_curve() -> None:
    real = arms({"1": [100] * 3, "2": [200] * 3}, "loader.num_workers")
    assert capacity_curves(compare("a sweep", real)) == []
    assert not [text for text in sentences.headline(compare("a sweep", real)) if "emulated" in text]


def test_other_differences_have_no_curve() -> None:
    """A second setting differs; two groups of one speed differ in their data; there is only one number of workers."""
    mixed = [run(1000, count, loader__batched=count == 1) for count in (1, 2)]
    assert capacity_curves(compare("a sweep", mixed)) == []
    two = [run(1000, count, data__name=data) for count in (1, 2) for data in ("digits", "photos")]
    assert capacity_curves(compare("a sweep", two)) == []
    assert capacity_curves(study({1000: (2,)})) == []


@pytest.mark.parametrize(
    ("speed", "counts", "more", "sentence"),
    [
        (
            250,
            (0, 1),
            {},
            "The process itself feeds the emulated custom (250 samples/s): utilization 1.00 (threshold 0.90).",
        ),
        (500, (1, 2), {}, "1 worker feeds the emulated custom (500 samples/s): utilization 0.90 (threshold 0.90)."),
        (1000, (1, 4), {}, "4 workers feed the emulated custom (1,000 samples/s): utilization 1.00 (threshold 0.90)."),
        (
            4000,
            (0, 1, 2),
            {},
            "No measured number of workers feeds the emulated custom (4,000 samples/s): the highest utilization is 0.23, with 2 "
            "workers (threshold 0.90). By the linear estimate it needs 9 workers and about 13.3 cores; not measured beyond 2.",
        ),
        (
            1500,
            (1, 4),
            {"cores": 2},
            "No measured number of workers feeds the emulated custom (1,500 samples/s): the highest utilization is 0.60, with 4 "
            "workers (threshold 0.90). By the linear estimate 4 workers would be enough, which the measurement does not confirm.",
        ),
    ],
)
def test_one_sentence_for_each_speed(
    speed: float, counts: tuple[int, ...], more: dict[str, Any], sentence: str
) -> None:
    assert sentences.headline(study({speed: counts}, study="capacity", **more)) == [sentence]


def test_several_speeds_are_distinguished_by_their_device() -> None:
    first, second = sentences.headline(study({250: (1, 2), 4000: (1, 2)}, study="capacity"))
    assert first == (
        "emulated custom (250 samples/s): 1 worker feeds this emulated accelerator: utilization 1.00 (threshold 0.90)."
    )
    assert second.startswith("emulated custom (4,000 samples/s): No measured number of workers feeds")


def test_other_comparisons_say_what_the_best_arm_feeds() -> None:
    runs = [run(1000, 2, repeat, name="resnet50_a100") for repeat in (1, 2, 3)]
    runs += [run(1000, 3, repeat, name="resnet50_a100", loader__name="other") for repeat in (1, 2, 3)]
    *_, last = sentences.headline(compare("a sweep", runs))
    assert last.startswith("With ")
    assert (
        "the emulated resnet50_a100 (1,000 samples/s) has a utilization of 1.00, and the loader alone could feed 1.35 of"
        in last
    )
    assert last.endswith("2 of 2 arms pass MLPerf Storage's rule (at least 0.90).")
    runs += [run(1000, 8, repeat, name="resnet50_a100", loader__name="replay") for repeat in (1, 2, 3)]  # the ceiling
    assert sentences.headline(compare("a sweep", runs))[-1] == last
    *_, alone = sentences.headline(compare("a sweep", [run(1000, 1)]))
    assert alone.endswith("By MLPerf Storage's rule (at least 0.90) it does not pass.")


def test_the_table_has_columns_for_emulated_arms_only() -> None:
    emulated = study({1000: (1, 2)})
    columns, rows = arm_table(emulated, emulated.groups[0])
    assert rows[0][columns.index("utilization")] == "45.0 %"
    assert rows[0][columns.index("accelerators fed")] == "0.45"
    assert rows[0][columns.index("workers needed")] == "2.22"
    assert rows[0][columns.index("cores needed")] == "3.33"
    assert "<th>workers needed</th><th>cores needed</th>" in page.html(emulated, [])
    real = compare("a sweep", arms({"native": [100] * 3, "dali": [200] * 3}))
    assert not {"utilization", "accelerators fed", "workers needed", "cores needed"} & set(
        arm_table(real, real.groups[0])[0]
    )


def test_a_window_of_100_characters_shows_what_is_needed() -> None:
    out = StringIO()
    show_tables(study({1000: (1, 2)}), Terminal(Console(file=out, width=100, color_system=None)))
    table = out.getvalue().partition("(the window is too narrow")[0]
    assert re.search(r"utilization ┃ +needed ┃ needed ┃", table)
    assert "2.22 │   3.33 │" in table
    assert max(map(len, table.splitlines())) <= 100


def test_the_picture_is_the_first_of_the_comparison(tmp_path: Path) -> None:
    drawn = charts.draw(study({250: (0, 1, 2), 4000: (0, 1, 2)}), lambda _: None, tmp_path, "main.png")
    assert drawn[0].name == "capacity_emulated"
    assert "emulated" in drawn[0].title
    assert (tmp_path / "capacity_emulated.png").read_bytes() == (tmp_path / "main.png").read_bytes()


def test_the_picture_has_a_line_an_estimate_and_a_threshold() -> None:
    curves = [curve(4000, (0, 1, 2)), curve(250, (0, 1), accelerator__min_utilization=0.85)]
    [axis] = capacity_chart.utilizations(curves).axes
    solid = [line for line in axis.lines if line.get_label() == "emulated custom (4,000 samples/s)"]
    assert np.asarray(solid[0].get_ydata()) == pytest.approx([11.25, 11.25, 22.5])
    dashed = [np.asarray(line.get_ydata(), float) for line in axis.lines if line.get_linestyle() == "--"]
    assert dashed[0] == pytest.approx([np.nan, 11.25, 22.5], nan_ok=True)
    assert len(dashed) == 2  # the legend's entry; the other curve has one estimate, which is no line
    assert sorted(str(line.get_label()) for line in axis.lines if line.get_linestyle() == ":") == [
        "threshold, 85 %",
        "threshold, 90 %",
    ]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "1", "2"]


def test_no_number_of_workers_is_promised_if_the_runs_have_none() -> None:
    """A run has none if queuing or copying takes too long: see tests/diagnosis/test_capacity.py."""
    runs = [run(4000, workers, repeat, study="capacity") for workers in (1, 2) for repeat in (1, 2, 3)]
    limited = [
        replace(each, figures={name: value for name, value in each.figures.items() if "workers" not in name})
        for each in runs
    ]
    [sentence] = sentences.headline(compare("sweep study=capacity", limited))
    assert sentence.endswith("Queuing its steps or copying its batches takes too long for any number of workers.")


def test_without_an_estimate_the_legend_has_none() -> None:
    [axis] = capacity_chart.utilizations([curve(4000, (0, 1))]).axes
    assert not [line for line in axis.lines if line.get_linestyle() == "--"]
