"""Rows give the same as steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loaderlab import metrics
from loaderlab.device.step_times import DeviceStep
from loaderlab.diagnosis.rank_rows import job_steps_of_rows, rank_steps_of_rows
from loaderlab.diagnosis.ranks import RankFacts
from loaderlab.meter.step import Step
from loaderlab.meter.step_rows import rows_of
from loaderlab.meter.summary import summarize
from tests.diagnosis.job_of_steps import job_steps
from tests.diagnosis.planted_ranks import steps_of


def jobs(*, on_device: bool) -> list[list[Step]]:
    """Three ranks with random times, unequal batches and losses; not all of them have all steps."""
    random = np.random.default_rng(0)
    ranks = steps_of(random.random((3, 60)) * 9, random.random((3, 60)) * 9, on_device=on_device)
    ranks = [
        [
            replace(
                step,
                num_samples=32 - rank,
                loss=float(random.random()),
                other=1000 * rank,
                disturbed=step.step == 7 and rank == 2,
                device=step.device and with_everything(step.device, random),
            )
            for step in own
        ]
        for rank, own in enumerate(ranks)
    ]
    ranks = [[replace(step, loss=step.device.loss) if step.device else step for step in own] for own in ranks]
    return [ranks[0][2:], ranks[1], ranks[2][:50]]


def with_everything(device: DeviceStep, random: np.random.Generator) -> DeviceStep:
    return replace(
        device,
        delivery=float(random.random()),
        optimizer=float(random.random()),
        trailing=float(random.random()),
        loss=float(random.random()),
    )


@pytest.mark.parametrize("on_device", [False, True])
def test_the_arrays_of_a_rank(*, on_device: bool) -> None:
    for rank, steps in enumerate(jobs(on_device=on_device)):
        result = rank_steps_of_rows(rank, "n1", rows_of(steps), RankFacts())
        assert (result.rank, result.node, result.step.tolist()) == (rank, "n1", [step.step for step in steps])
        for name in ("starved_ms", "own_ms", "length_ms"):
            assert getattr(result, name) == pytest.approx([getattr(step, name) for step in steps], abs=1e-5)


@pytest.mark.parametrize("on_device", [False, True])
def test_the_steps_of_the_job(*, on_device: bool) -> None:
    ranks = jobs(on_device=on_device)
    expected, result = job_steps(ranks), job_steps_of_rows(rows_of(steps) for steps in ranks)
    assert [step.step for step in result] == [step.step for step in expected] == list(range(2, 50))
    for name in ("num_samples", "disturbed"):
        assert [getattr(step, name) for step in result] == [getattr(step, name) for step in expected]
    for name in ("loss", "lost_ms", "length_ms", "own_ms"):
        values = [[getattr(step, name) for step in steps] for steps in (result, expected)]
        assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert summarize(result)[metrics.STARVED_PCT] == pytest.approx(summarize(expected)[metrics.STARVED_PCT], abs=1e-4)
    assert job_steps_of_rows([]) == []
