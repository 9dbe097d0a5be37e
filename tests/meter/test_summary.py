"""Metrics from device times: hand-made steps with round numbers."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from loaderlab.device.step_times import DeviceStep
from loaderlab.meter.step import Step
from loaderlab.meter.summary import summarize
from loaderlab.report.step_files import to_csv

MS = 1_000_000


def on_device(gap: float, delivery: float, host_wait: float, compute: float = 8.0) -> Step:
    """A step with these device times in ms; ``compute`` is half forward, half backward."""
    timed = DeviceStep(gap, delivery, compute / 2, compute / 2, 0.0, 0.5)
    return Step(0, 0, 1, 4, (int(host_wait * MS), 0, MS, MS, MS), other=0, loss=0.5, device=timed)


def test_a_host_wait_that_overlaps_device_work_is_not_starvation() -> None:
    figures = summarize([on_device(gap=0.0, delivery=0.0, host_wait=6.0)] * 10)
    assert figures["starvation/starved_pct"] == 0
    assert figures["starvation/wait_pct"] == pytest.approx(100 * 6 / 9)
    assert figures["time/step_ms"] == 8
    assert figures["rate/samples_per_s"] == pytest.approx(500)


def test_a_gap_not_caused_by_the_loader_is_other() -> None:
    figures = summarize([on_device(gap=3.0, delivery=0.0, host_wait=1.0)] * 10)
    assert figures["time/wait_ms"] == 1
    assert figures["time/other_ms"] == 2
    assert figures["starvation/starved_pct"] == pytest.approx(100 / 11)


def test_gap_and_delivery_are_starvation() -> None:
    figures = summarize([on_device(gap=2.0, delivery=1.0, host_wait=5.0, compute=7.0)] * 10)
    assert figures["starvation/starved_pct"] == pytest.approx(30)
    assert figures["time/transfer_ms"] == 1
    assert figures["time/host_wait_ms"] == 5


def test_csv_keeps_every_step_raw() -> None:
    steps = [
        Step(0, 0, 0, 4, (MS, 2 * MS, 3 * MS, 4 * MS, 5 * MS), other=6 * MS, loss=1.25),
        replace(on_device(1, 2, 3), step=1),
    ]
    rows = list(csv.DictReader(io.StringIO(to_csv(steps, 1))))
    assert [row["measured"] for row in rows] == ["0", "1"]
    assert (rows[0]["host_wait_ms"], rows[0]["host_other_ms"], rows[0]["loss"]) == (
        "1.0000",
        "6.0000",
        "1.25",
    )
    assert rows[0]["device_gap_ms"] == ""
    assert (rows[1]["device_gap_ms"], rows[1]["device_delivery_ms"]) == ("1.0000", "2.0000")
