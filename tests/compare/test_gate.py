"""The arms that fail a gate, and those that it cannot judge."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loaderlab.compare.arms import Arm
from loaderlab.compare.comparison import compare
from loaderlab.compare.gate import judge_gate
from loaderlab.tracking.records import Missing
from tests.records import arms, recorded

STEADY = {"native": [100.0, 101.0, 99.0]}


def labels(of: Sequence[Arm]) -> list[str]:
    return [arm.label for arm in of]


@pytest.mark.parametrize(
    ("dali", "below"),
    [
        ([50.0, 51.0, 49.0], ["dali"]),  # the whole interval is below 0.95
        ([94.0, 100.0, 90.0], []),  # only the median is below 0.95
        ([200.0, 201.0, 199.0], []),
    ],
)
def test_an_arm_fails_if_its_whole_interval_is_below_the_limit(dali: list[float], below: list[str]) -> None:
    gate = judge_gate(compare("a sweep", arms(STEADY | {"dali": dali})), 0.95)
    assert (labels(gate.compared), labels(gate.below)) == (["dali"], below)
    assert (gate.has_baseline, gate.unpaired, gate.unmeasured, gate.unclear) == (True, [], [], [])


def test_two_repeats_are_unclear() -> None:
    gate = judge_gate(compare("a sweep", arms({"native": [100.0, 101.0], "dali": [50.0, 51.0]})), 0.95)
    assert (labels(gate.unclear), gate.below) == (["dali"], [])


def test_a_ceiling_is_left_out() -> None:
    gate = judge_gate(compare("a sweep", arms(STEADY | {"replay": [10.0, 10.0, 10.0]})), 0.95)
    assert (gate.compared, gate.has_baseline) == ([], False)


def test_arms_without_a_partner_and_jobs_without_a_value_are_listed() -> None:
    runs = [*arms(STEADY | {"dali": [100.0] * 3}), recorded(100, batch_size=32, loader__name="spdl")]
    missing = [Missing("pinned", "not applicable here: no GPU"), Missing("more", "not reached")]
    gate = judge_gate(compare("a sweep", runs, missing), 0.95)
    assert labels(gate.unpaired) == ["spdl"]
    assert gate.unmeasured == ["more: not reached"]
