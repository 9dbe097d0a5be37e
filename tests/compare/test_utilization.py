"""The arms that fail the gate on utilization, and those that it cannot judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from loaderlab.compare.comparison import compare
from loaderlab.compare.utilization import Utilization, judge_utilization
from loaderlab.metrics import EFFICIENCY_PCT, UTILIZATION_PCT
from loaderlab.tracking.records import Missing, RunRecord
from tests.records import recorded


def arm(percents: Sequence[float | None], *, emulated: bool, **settings: str) -> list[RunRecord]:
    """A repeat for each percentage; None: the run did not measure it."""
    metric = UTILIZATION_PCT if emulated else EFFICIENCY_PCT
    tags = {"device.type": "emulated"} if emulated else {"device.type": "cpu"}
    return [
        recorded(100, repeat=repeat, tags=tags, figures={} if percent is None else {metric: percent}, **settings)
        for repeat, percent in enumerate(percents, 1)
    ]


@pytest.mark.parametrize("emulated", [True, False])
@pytest.mark.parametrize(
    ("percents", "is_below"),
    [
        ([50, 51, 49], True),  # the whole interval is below 90 %
        ([88, 96, 80], False),  # only the median is below it
        ([95, 96, 97], False),
        ([89.9, 89.9, 89.9], True),
        ([89], True),  # without an interval, the median counts
        ([80, 99], True),
        ([82, 99], False),
        ([90], False),
    ],
)
def test_an_arm_fails_if_its_whole_interval_is_below_the_limit(
    percents: list[float], is_below: bool, emulated: bool
) -> None:
    (utilization,) = judge_utilization(compare("a sweep", arm(percents, emulated=emulated))).judged
    assert utilization.values == percents
    assert utilization.is_below(0.9) is is_below


def test_the_text_of_a_utilization() -> None:
    emulated = Utilization("emulated a100 native", UTILIZATION_PCT, [49, 50, 51])
    assert str(emulated).startswith(
        "emulated a100 native reaches 50.0 % of the emulated accelerator's requested rate (95 % CI 47."
    )
    assert str(Utilization("native", EFFICIENCY_PCT, [80, 90])) == (
        "native reaches 85.0 % of the ceiling (median of 2 repeats)"
    )
    assert str(Utilization("native", EFFICIENCY_PCT, [80])) == "native reaches 80.0 % of the ceiling"


def test_a_real_run_is_not_judged_by_the_metric_of_an_emulated_one() -> None:
    figures = {UTILIZATION_PCT: 99.0, EFFICIENCY_PCT: 70.0}
    for device, percent in (("cpu", 70.0), ("emulated", 99.0)):
        (entry,) = judge_utilization(
            compare("a sweep", [recorded(100, tags={"device.type": device}, figures=figures)])
        ).judged
        assert entry.values == [percent]


def test_an_arm_needs_the_metric_in_three_repeats_or_in_all() -> None:
    gate = judge_utilization(compare("a sweep", arm([95, None, None, 95], emulated=True)))
    assert list(gate.without.values()) == [UTILIZATION_PCT]
    gate = judge_utilization(compare("a sweep", arm([95, None, 95, 95], emulated=True)))
    assert [entry.values for entry in gate.judged] == [[95, 95, 95]]


def test_a_ceiling_is_left_out_and_jobs_without_a_value_are_listed() -> None:
    runs = arm([95], emulated=True) + arm([None], emulated=True, loader__name="replay")
    missing = [Missing("bf16", "not applicable here: emulated"), Missing("more", "not reached")]
    gate = judge_utilization(compare("a sweep", runs, missing))
    assert [entry.name for entry in gate.judged] == ["emulated native"]
    assert (gate.without, gate.unmeasured) == ({}, ["more: not reached"])


def test_of_two_sweeps_only_the_new_one_is_judged() -> None:
    runs = arm([50], emulated=True, sweep="old") + arm([95], emulated=True, sweep="now")
    gate = judge_utilization(compare("two", runs, baseline={"sweep": "old"}))
    assert [entry.values for entry in gate.judged] == [[95]]
    both = judge_utilization(compare("one", arm([50], emulated=True) + arm([95], emulated=True, loader__name="dali")))
    assert [entry.values for entry in both.judged] == [[50], [95]]  # the baseline too


def on_speed(speed: int, percent: float, **settings: Any) -> list[RunRecord]:
    """A run on an accelerator of this speed."""
    device = f"emulated custom: {speed} samples/s (typed by the user), fed by a processor"
    tags = {"device.type": "emulated", "device.name": device, "arm": "a run"}
    settings = {"accelerator__name": "custom", "accelerator__samples_per_s": str(speed), **settings}
    return [recorded(speed * percent / 100, tags=tags, figures={UTILIZATION_PCT: percent}, **settings)]


def names(runs: list[RunRecord]) -> list[str]:
    return [entry.name for entry in judge_utilization(compare("all runs", runs)).judged]


def test_arms_of_several_accelerators_are_named_by_them() -> None:
    assert names(on_speed(500, 90) + on_speed(1000, 45)) == [
        "emulated custom (500 samples/s): emulated a run",
        "emulated custom (1,000 samples/s): emulated a run",
    ]
    assert names(on_speed(500, 90, batch_size="8") + on_speed(1000, 45)) == [
        "emulated custom (500 samples/s), batch_size 8: emulated a run",
        "emulated custom (1,000 samples/s), batch_size 64: emulated a run",
    ]
    assert names(on_speed(500, 90)) == ["emulated a run"]


def test_accelerators_that_differ_in_more_than_their_speed_have_their_whole_description() -> None:
    runs = on_speed(500, 90) + on_speed(500, 90)
    device = "emulated custom: 500 samples/s (typed by the user), fed by another processor"
    runs[1] = replace(runs[1], tags={**runs[1].tags, "device.name": device})
    assert [name.partition(": emulated a run")[0] for name in names(runs)] == [
        f"device {run.tags['device.name']}" for run in runs
    ]


def test_an_unfinished_run_is_left_out_if_its_arm_has_a_finished_one() -> None:
    def gate(*unfinished: RunRecord) -> tuple[int, int]:
        comparison = compare("all runs", [*arm([95], emulated=False), *unfinished])
        return comparison.num_left_out, len(judge_utilization(comparison).unmeasured)

    killed: dict[str, Any] = {"rate": 0, "status": "KILLED", "parent": None}
    assert gate(recorded(**killed, repeat=7, tracking__experiment="another")) == (1, 0)
    assert gate(recorded(**killed, loader__num_workers=8)) == (0, 1)
    assert gate(recorded(**killed), recorded(**killed, loader__name="dali")) == (1, 1)
    unknown = replace(recorded(**killed, tags={"arm": "native"}), settings={})  # it ended before it recorded them
    assert gate(unknown) == (0, 1)
    known = [replace(run, tags={**run.tags, "arm": "native"}) for run in arm([95], emulated=False)]
    assert compare("all runs", [*known, unknown]).num_left_out == 1


def test_a_run_without_settings_is_emulated_if_its_arm_is() -> None:
    run = replace(recorded(0, status="KILLED", tags={"arm": "digits emulated custom native"}), settings={})
    assert run.is_emulated
    assert not replace(run, tags={"arm": "digits cnn native fp32"}).is_emulated
