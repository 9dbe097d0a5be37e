"""The arms that fail the gate on utilization, and those that it cannot judge."""

from __future__ import annotations

from collections.abc import Sequence

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
