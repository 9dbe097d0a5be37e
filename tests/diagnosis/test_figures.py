"""From steps to evidence: the window, the epochs around it, and NVML's samples."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from loaderlab.diagnosis.figures import NO_PROBES, LoopRecord, device_usage, evidence_of, usage
from loaderlab.meter.sampler import DeviceSample
from loaderlab.meter.step import Step
from tests.simulated import Loop, play, record


def test_nvml_metrics_cover_only_the_measured_steps() -> None:
    """Two epochs of 20 steps of 10 ms. The first 10 steps and the second epoch's first are left out: 100 and 190 ms remain."""
    meter = play(Loop(lambda _: 0.0, steps=20, epochs=2))
    begun = meter.epochs_ns[0][0]
    samples = []
    for index in range(81):
        at = begun + index * 5_000_000
        warmup = index < 20  # the GPU is idle then
        samples.append(
            DeviceSample(
                at_ns=at,
                utilization_pct=0 if warmup else 50,
                power_mw=10_000 if warmup else 200_000,
                pids=(os.getpid(), 1),
            )
        )
    figures = device_usage(record(meter, 10, 1, device_samples=samples, own_pids={os.getpid()}))
    assert figures["device/utilization_pct"] == 50
    assert figures["device/power_w"] == pytest.approx(200)
    # 0.29 s of 200 W for 290 samples, 10 per step
    assert figures["energy/joules_per_sample"] == pytest.approx(200 * 0.29 / 290, rel=0.02)


def test_no_samples_give_no_metrics() -> None:
    meter = play(Loop(lambda _: 0.0, steps=20))
    assert device_usage(record(meter, 5, 1)) == {}
    assert device_usage(record(play(Loop(lambda _: 0.0, steps=0)), 0, 1)) == {}


def test_a_value_that_was_not_counted_is_absent() -> None:
    meter = play(Loop(lambda _: 0.0, steps=20))
    assert usage(record(meter, 5, 1)) == {}
    meter.used = {"cpu_s": 0.1}
    assert usage(record(meter, 5, 1)) == pytest.approx({"cpu/utilization_pct": 25.0})
    meter.used |= {"read_bytes": 2.0**20}
    assert usage(record(meter, 5, 1))["io/read_mib_per_s"] == pytest.approx(5.0)


def waits(*epochs: Sequence[float]) -> LoopRecord:
    """The record of epochs whose steps wait this long, in ms, and then work for 10 ms."""
    steps: list[Step] = []
    for epoch, waits_ms in enumerate(epochs):
        for position, wait_ms in enumerate(waits_ms):
            host = (round(wait_ms * 1e6), 0, 5_000_000, 3_000_000, 2_000_000)
            steps.append(Step(epoch, len(steps), position, 10, host))
    return LoopRecord(steps, 0, 1, [(0, 10**9)], [0] * len(epochs), {}, cores=2, lookahead=4)


@pytest.mark.parametrize(
    ("epochs", "typical", "early"),
    [
        ([[2.0] * 40], 1.0, 4 / 39),  # every batch costs 2 ms to hand over; the first step of an epoch is left out
        ([[0.0] * 10 + [60.0] + [0.0] * 29], 0.0, 0.0),  # one of 40 is late
        ([[6.0] * 5 + [0.0] * 25, [6.0] * 5 + [0.0] * 25], 0.0, 1.0),  # the queue fills at each start
        ([[1.0] * 6, [1.0] * 6, [1.0] * 6], 1.0, None),  # nearly all steps are first steps, so the share is unknown
        ([[0.0] * 40], None, None),
    ],
)
def test_when_the_steps_of_a_loop_wait(epochs: list[list[float]], typical: float | None, early: float | None) -> None:
    evidence = evidence_of(waits(*epochs), NO_PROBES)
    assert evidence.typical_share == (None if typical is None else pytest.approx(typical))
    assert evidence.early_share == (None if early is None else pytest.approx(early))
