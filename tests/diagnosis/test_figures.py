"""From steps to evidence: what the window, the epochs around it and NVML's samples give."""

from __future__ import annotations

import os

import pytest

from loaderlab.diagnosis.figures import device_usage, usage
from loaderlab.meter.sampler import DeviceSample
from tests.simulated import Loop, play, record


def test_nvml_figures_are_of_the_measured_stretches() -> None:
    """Two epochs of 20 steps of 10 ms; the first 10 are warm-up and the second epoch's first step is a gap: 100 and 190 ms."""
    meter = play(Loop(lambda _: 0.0, steps=20, epochs=2))
    begun = meter.epochs_ns[0][0]
    samples = []
    for index in range(81):
        at = begun + index * 5_000_000
        warm = index < 20  # in the warm-up the GPU idled
        samples.append(
            DeviceSample(
                at_ns=at,
                utilization_pct=0 if warm else 50,
                power_mw=10_000 if warm else 200_000,
                pids=(os.getpid(), 1),
            )
        )
    found = device_usage(record(meter, 10, 1, device_samples=samples, own_pids={os.getpid()}))
    assert found["device/utilization_pct"] == 50
    assert found["device/power_w"] == pytest.approx(200)
    # 0.29 s of 200 W for 290 samples of 10 a step
    assert found["energy/joules_per_sample"] == pytest.approx(200 * 0.29 / 290, rel=0.02)


def test_no_samples_give_no_figure() -> None:
    meter = play(Loop(lambda _: 0.0, steps=20))
    assert device_usage(record(meter, 5, 1)) == {}
    assert device_usage(record(play(Loop(lambda _: 0.0, steps=0)), 0, 1)) == {}


def test_what_was_not_counted_has_no_figure() -> None:
    meter = play(Loop(lambda _: 0.0, steps=20))
    assert usage(record(meter, 5, 1)) == {}
    meter.used = {"cpu_s": 0.1}
    assert usage(record(meter, 5, 1)) == pytest.approx({"cpu/utilization_pct": 25.0})
    meter.used |= {"read_bytes": 2.0**20}
    assert usage(record(meter, 5, 1))["io/read_mib_per_s"] == pytest.approx(5.0)
