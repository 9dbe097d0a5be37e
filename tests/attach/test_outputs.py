"""The result of a watched program as text and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loaderlab.attach.events import Events, Kind, LoaderFacts, LoaderProfile, Program, Row
from loaderlab.attach.outputs import WIDTH, as_html, as_json, one_line, text
from loaderlab.attach.reading import Reading, read_events
from loaderlab.diagnosis.line_figures import LineRecord
from loaderlab.lines.control import NOT_BEGUN
from loaderlab.lines.stacks import Recording
from loaderlab.metrics import LINES_RUN_X, LINES_SHARE_PCT
from tests.diagnosis.profiled_lines import line_record

MS = 1_000_000
FACTS = LoaderFacts(
    number=0,
    kind="torch",
    title="DataLoader",
    stack=("/home/me/train.py:13 make", "/home/me/train.py:41 <module>"),
    made_at=("train.py:13", "train.py:41"),
    num_workers=2,
    prefetch_factor=2,
    batch_size=32,
)


def rows(loader: int, wait_ms: int, begin_ms: int = 0, steps: int = 60) -> list[Row]:
    """A pass of steps of 50 ms each."""
    begin, found = begin_ms * MS, [Row(Kind.START, loader, loader + 1, 7, begin_ms * MS, begin_ms * MS)]
    for step in range(steps):
        at = begin + 50 * MS * step
        found.append(Row(Kind.BATCH, loader, loader + 1, 7, at, at + wait_ms * MS, 32))
        found.append(Row(Kind.OPTIMIZER, -1, -1, 7, at + 49 * MS, at + 49 * MS))
    end = begin + 50 * MS * steps
    return [*found, Row(Kind.END, loader, loader + 1, 7, end, end)]


def reading(*loaders: LoaderFacts, waits_ms: tuple[int, ...] = (20,), profile: LoaderProfile | None = None) -> Reading:
    program = Program(device="cpu", device_title="cpu EPYC", cores=4)
    all_rows = [
        row
        for facts, wait in zip(loaders, waits_ms, strict=True)
        for row in rows(facts.number, wait, 5000 * facts.number)
    ]
    return read_events(Events(program, loaders, all_rows, profile=profile))


def test_the_text_has_verdict_bottleneck_loader_advice_and_rate() -> None:
    lines = text(reading(FACTS), "train.py").splitlines()
    assert lines[0].startswith("loaderlab: train.py: starved of data 40.0 % of the time (95 % CI 40.0 to 40.0)")
    rest = " ".join(" ".join(lines).split())
    assert "Bottleneck: loader." in rest
    assert "Loader: DataLoader made at train.py:13 (2 workers, batch size 32)" in rest
    assert "Try DataLoader(num_workers=4): more workers (gain at most" in rest
    assert "58 of 60" not in rest
    assert "a step takes 50 ms, including 20 ms of waiting; 640 samples/s" in rest
    assert max(map(len, lines)) <= WIDTH + len("loaderlab: ")


def test_several_loaders_are_listed_with_their_verdicts() -> None:
    other = replace(FACTS, number=1, stack=("/home/me/train.py:50 <module>",), made_at=("train.py:50",))
    result = reading(FACTS, other, waits_ms=(1, 20))
    printed = " ".join(text(result, "train.py").split())
    assert (
        "Loader DataLoader made at train.py:50 (2 workers, batch size 32): starved of data 40.0 % of the time"
        in printed
    )
    assert (
        "Loader DataLoader made at train.py:13 (2 workers, batch size 32): fed: starved of data 2.0 % of the time"
        in printed
    )
    content: dict[str, Any] = json.loads(as_json(result, "train.py"))
    assert [entry["loader"]["made_at"] for entry in content["others"]] == ["train.py:50", "train.py:13"]
    assert [entry["verdict"] for entry in content["others"]] == ["starved", "fed"]


def test_one_line_is_one_line() -> None:
    assert "\n" not in one_line(reading(FACTS), "train.py, rank 3")


def test_json_has_the_documented_keys_and_no_value_that_is_not_json() -> None:
    result = reading(FACTS)
    figures = result.job.figures | {"time/step_ms": math.nan}
    content = json.loads(
        as_json(replace(result, job=replace(result.job, figures=figures)), "train.py"), parse_constant=pytest.fail
    )
    assert {"verdict", "bottleneck", "headroom_x", "advice", "figures", "loader", "others"} <= content.keys()
    assert content["figures"]["time/step_ms"] is None
    assert content["loader"]["made_at"] == "train.py:13"


@pytest.mark.parametrize("events", [Events(Program()), Events(Program(), (FACTS,), rows(0, 20)[:1])])
def test_without_a_measurement_every_output_says_why(events: Events) -> None:
    result = read_events(events)
    assert not result.can_judge
    for make in (text, one_line, as_json, as_html):
        assert "cannot judge: no torch DataLoader and no DALI iterator was read" in " ".join(
            make(result, "train.py").split()
        )


def test_a_profile_gives_advice_and_metrics_by_the_measured_steps(tmp_path: Path) -> None:
    profile = LoaderProfile(line_record(tmp_path, {"f = open(path)": 3.0, "return image, label": 1.0}), frozenset({0}))
    result = reading(FACTS, profile=profile)
    rest = " ".join(text(result, "train.py").split())
    assert "To do: data.py:1 __getitem__: open the file once in each worker" in rest
    assert "without it the loader would make 4.0x, the device can take 1.7x." in rest
    figures = json.loads(as_json(result, "train.py"))["figures"]
    assert figures[LINES_SHARE_PCT] == 75
    assert figures[LINES_RUN_X] == pytest.approx(1 / (1 - 0.4))
    assert as_html(result, "train.py").count("the device can take 1.7x") == 1


def test_a_profile_belongs_to_its_loader(tmp_path: Path) -> None:
    other = replace(FACTS, number=1, stack=("b.py:1 f",), made_at=("b.py:1",))
    profile = LoaderProfile(line_record(tmp_path, {"f = open(path)": 3.0, "return image, label": 1.0}), frozenset({1}))
    result = reading(FACTS, other, waits_ms=(20, 10), profile=profile)
    assert result.slow is not None
    assert result.slow.lines is not None
    assert result.slow.lines.gain(result.slow.lines.top).device_x == pytest.approx(1 / (1 - 0.2))
    assert [LINES_RUN_X in entry.figures for entry in (result.job, *result.loaders)] == [False, False, True]


def test_a_profile_that_never_began_says_so() -> None:
    record = LineRecord(Recording(problem=NOT_BEGUN), [], 0)
    result = reading(FACTS, profile=LoaderProfile(record, frozenset()))
    assert f"Slow line: none. {NOT_BEGUN.capitalize()}." in " ".join(text(result, "train.py").split())
    assert result.job.verdict.slow_line == ""
