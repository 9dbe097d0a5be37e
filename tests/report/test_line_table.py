"""The tables of a loader's stages and lines."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from loaderlab.diagnosis.verdict import judge
from loaderlab.lines.stacks import Frame, Sample
from loaderlab.lines.tree import tree
from loaderlab.report.line_table import lines_section, mlflow_table, short_section, stage_table
from loaderlab.report.loop_html import fragment
from tests.diagnosis.profiled_lines import NS, Spent, line_record
from tests.diagnosis.test_verdict import SETUP, STARVED

WAITS = (Frame("/venv/torch/utils/data/_utils/worker.py", 350, "_worker_loop"), Frame("/lib/queues.py", 100, "get"))


def test_each_part_has_its_shares_and_how_it_spends_them(tmp_path: Path) -> None:
    spent = {"a <b> | c": Spent(3.0, "Deform", others=0.5), "time.sleep(1)": Spent(1.0, computing=0.0)}
    record = line_record(tmp_path, dict(spent))
    samples = (*record.recording.samples, Sample(4 * NS, 5 * NS, 0.0, 0.0, WAITS))
    lines = replace(record, recording=replace(record.recording, samples=samples)).lines(STARVED)
    assert lines is not None
    columns, rows = stage_table(lines)
    stages = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [row["stage"] for row in stages] == ["transform Deform", "dataset", "waiting for the trainer"]
    assert [row["of busy time"] for row in stages] == ["75.0 %", "25.0 %", "(20.0 % of the profile)"]
    assert [row["exposed"] for row in stages] == ["75.0 %", "25.0 %", ""]
    assert [row["own CPU"] for row in stages] == ["100.0 %", "0.0 %", "0.0 %"]
    assert [row["other threads"] for row in stages] == ["50.0 %", "0.0 %", "0.0 %"]
    assert [row["run without it"] for row in stages] == ["2.00x", "1.33x", ""]
    assert [row["spends its time"].partition(":")[0] for row in stages] == ["computing", "waiting", "waiting"]
    table = mlflow_table(lines)
    assert [row[table["columns"].index("source")] for row in table["data"]] == list(spent)
    assert lines_section(lines).count("| --- |") == 2
    assert short_section(lines).count("| --- |") == 1
    assert "| 75 % | data.py:1 __call__ | transform Deform | computing | 2.00x |" in short_section(lines)


def test_time_that_nothing_waits_for_is_shown_as_free(tmp_path: Path) -> None:
    lines = line_record(tmp_path, {"f = open(path)": 3.0}, waited=False).lines(STARVED)
    assert lines is not None
    columns, rows = stage_table(lines)
    assert dict(zip(columns, rows[0], strict=True))["exposed"] == "free"


def test_the_tree_loads_nothing(tmp_path: Path) -> None:
    page = tree(line_record(tmp_path, {"f = open(path)": 3.0}).recording, "a run")
    assert "__getitem__" in page
    assert set(re.findall(r"https?://[^\"' )]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_the_page_of_a_loop_names_the_line(tmp_path: Path) -> None:
    evidence = replace(STARVED, lines=line_record(tmp_path, {"f = open(path)": 3.0}).lines(STARVED))
    html = fragment("a loop", judge(evidence, SETUP), {}, [], [])
    assert "<p>Slow line: 100 % of the workers" in html
