"""Truths planted in simulated loops: the figures are exact, the verdict and the bottleneck are named rightly."""

from __future__ import annotations

import pytest

from loaderlab.diagnosis.evidence import as_override
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.meter.summary import measured
from tests.simulated import CUDA, Loop, loader, measure, play, play_cuda, setup


@pytest.mark.parametrize(
    ("workers", "starved", "headroom"),
    [(0, 50.0, 2.0), (1, 0.0, 1.0), (2, 0.0, 1.0)],
)
def test_a_known_sleep_per_sample(workers: int, starved: float, headroom: float) -> None:
    """10 ms a batch beside steps of 10 ms: the host itself loses half of the time, one worker hides it all."""
    loop = Loop(lambda _: 10.0, workers, busy=0.02)
    figures, verdict = measure(loop, play(loop), setup(loop))
    assert figures["starvation/starved_pct"] == pytest.approx(starved, abs=1e-3)
    assert verdict.headroom_x == pytest.approx(headroom, abs=1e-3)
    assert (verdict.grade, verdict.bottleneck) == (
        ("starved", "storage") if workers == 0 else ("fed", "device compute")
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_that_are_too_slow(workers: int) -> None:
    """45 ms a batch: n workers give one every 45 / n ms, and the bursts of n do not make it look better."""
    loop = Loop(lambda _: 45.0, workers, steps=211, epochs=3)
    figures, verdict = measure(loop, play(loop), setup(loop))
    # 211 steps: with 2 and 3 workers the window ends within a round, by at most one batch in 200
    assert figures["starvation/starved_pct"] == pytest.approx(100 * (1 - 10 / (45 / workers)), abs=0.5)
    assert (verdict.grade, verdict.bottleneck) == ("starved", "CPU decode/transform")
    assert verdict.headroom_x == pytest.approx(4.5 / workers, rel=0.01)
    more = verdict.advice[0]
    assert as_override(more) == "loader.num_workers=5"  # 45 ms / 10 ms, and a tenth to spare
    assert more.gain_x == pytest.approx(4.5 / workers, rel=0.01)


def test_collation_that_costs_more_than_the_samples() -> None:
    loop = Loop(lambda _: 30.0, 1, stages={"prepare": 0.2, "collate": 0.8})
    _, verdict = measure(loop, play(loop), setup(loop, loader=loader(1, collates_samples=True)))
    assert (verdict.grade, verdict.bottleneck) == ("starved", "collation or Python")
    assert as_override(verdict.advice[0]) == "loader.batched=true"


def test_data_in_memory_behind_a_worker() -> None:
    loop = Loop(lambda _: 30.0, 1, stages={"prepare": 0.0, "collate": 0.03})  # the rest goes into handing over
    _, verdict = measure(loop, play(loop), setup(loop, in_memory=True))
    assert (verdict.bottleneck, as_override(verdict.advice[0])) == ("collation or Python", "loader.num_workers=0")


def test_a_slow_copy() -> None:
    loop = Loop(lambda _: 1.0, 2, transfer=10.0)
    meter = play(loop)
    # the ceiling's batches are on the device: no copy there
    given, ceiling = setup(loop), Loop(lambda _: 1.0, 2)
    figures, verdict = measure(ceiling, meter, given)
    assert figures["starvation/delivery_pct"] == figures["starvation/starved_pct"] == pytest.approx(50)
    assert figures["starvation/wait_pct"] == 0
    assert (verdict.grade, verdict.bottleneck) == ("starved", "host-to-device copy")


def test_a_heavy_model() -> None:
    loop = Loop(lambda _: 10.0, 1, forward=400.0, backward=600.0)
    figures, verdict = measure(loop, play(loop), setup(loop))
    assert figures["starvation/starved_pct"] == 0
    assert (verdict.grade, verdict.bottleneck) == ("fed", "device compute")
    assert "at most 1.00x" in verdict.because


def test_a_slow_optimizer() -> None:
    loop = Loop(lambda _: 1.0, 1, optimizer=30.0)
    _, verdict = measure(loop, play(loop), setup(loop))
    assert (verdict.grade, verdict.bottleneck) == ("fed", "device compute")
    assert (as_override(verdict.advice[0]), "79 % of the step is the optimizer" in verdict.to_try[0]) == (
        "batch_size=20",
        True,
    )


@pytest.mark.parametrize("steps", [100, 150, 200, 333])
def test_a_stall_every_tenth_batch(steps: int) -> None:
    """100 ms in one of ten batches, the host waiting: 100 of 200 ms; no median shows it."""
    loop = Loop(lambda index: 100.0 if index % 10 == 9 else 0.0, steps=steps + 10)
    figures, verdict = measure(loop, play(loop), setup(loop))
    assert figures["starvation/starved_pct"] == pytest.approx(50, abs=2)
    assert figures["time/wait_p50_ms"] == 0
    assert figures["time/wait_max_ms"] == 100
    assert verdict.grade == "starved"


def test_a_rare_stall_that_workers_hide() -> None:
    loop = Loop(lambda index: 40.0 if index % 10 == 9 else 1.0, 2, prefetch=4, steps=300)
    _, verdict = measure(loop, play(loop), setup(loop))
    assert verdict.grade == "fed"


def test_onset_after_100_steps() -> None:
    loop = Loop(lambda index: 0.0 if index < 100 else 10.0)
    meter = play(loop)
    figures, verdict = measure(loop, meter, setup(loop))
    assert figures["starvation/starved_pct"] == pytest.approx(100 * 1000 / 2900)
    assert verdict.grade == "starved"
    assert "50.0 %" in verdict.because
    assert "since step 100, 0.0 % before it" in verdict.because


def test_an_epoch_gap() -> None:
    """Workers that start anew each epoch: fed within, and 100 of 400 ms lost between seven times."""
    loop = Loop(lambda _: 1.0, 2, steps=30, epochs=8, start=99.0)
    figures, verdict = measure(loop, play(loop), setup(loop))
    assert figures["starvation/starved_pct"] == 0
    assert (verdict.grade, verdict.bottleneck) == ("starved", "epoch gap")
    assert as_override(verdict.advice[0]) == "loader.persistent_workers=true"
    assert verdict.because.startswith("23 % of the loop goes between epochs")  # 700 of 3,100 ms


def test_a_loader_that_eats_the_cores_of_the_step() -> None:
    loop = Loop(lambda _: 10.0, 2, slowed=1.6)
    figures, verdict = measure(loop, play(loop), setup(loop, cores=2, threads=2))
    assert figures["starvation/starved_pct"] == 0
    assert (verdict.grade, verdict.bottleneck) == ("fed", "interference")
    assert verdict.headroom_x == pytest.approx(1.6)
    assert as_override(verdict.advice[0]) == "torch_threads=1"


def test_a_slow_step_that_nothing_explains_is_inconclusive() -> None:
    loop = Loop(lambda _: 1.0, 2, slowed=1.6)
    meter = play(loop)
    loop.slowed = 1.0  # what the probes find
    _, verdict = measure(loop, meter, setup(loop))
    assert (verdict.grade, verdict.bottleneck) == ("inconclusive", None)
    assert "nothing that was measured explains it" in verdict.because


# ---- a device of its own ---------------------------------------------------------------------------------------


def test_a_wait_under_which_the_device_works_is_no_starvation() -> None:
    """The truth is 10 %: of 10 ms steps the host waits 9 of each, and the device runs dry 1 of 10."""
    loop = Loop(lambda _: 9.0, forward=3.0, backward=4.0, optimizer=2.0, steps=120)
    figures, verdict = measure(loop, play_cuda(loop), setup(loop, CUDA))
    assert figures["starvation/starved_pct"] == pytest.approx(10)
    assert figures["starvation/wait_pct"] == pytest.approx(90)
    assert verdict.grade == "partly starved"


def test_a_host_far_ahead_of_a_heavy_model() -> None:
    loop = Loop(lambda _: 5.0, forward=20.0, backward=40.0, optimizer=10.0, steps=120)
    figures, verdict = measure(loop, play_cuda(loop), setup(loop, CUDA))
    assert figures["starvation/starved_pct"] == 0
    assert figures["starvation/wait_pct"] > 80
    assert figures["starvation/drained_pct"] == 0
    assert (verdict.grade, verdict.bottleneck) == ("fed", "device compute")


def test_a_slow_decode_on_a_side_stream() -> None:
    loop = Loop(lambda _: 1.0, steps=120)
    given = setup(loop, CUDA, loader=LoaderCapabilities(decodes_on_device=True))
    figures, verdict = measure(loop, play_cuda(loop, side_stream=lambda _: 20.0), given)
    # the host is 2 ms a step: it soon runs ahead, and each batch's decode then ends before the device wants it
    assert figures["starvation/starved_pct"] == pytest.approx(0, abs=0.5)
    slow = play_cuda(loop, host=15.0, side_stream=lambda _: 5.0)
    figures, verdict = measure(loop, slow, given)
    assert figures["starvation/delivery_pct"] == pytest.approx(100 * 5 / 16)
    assert (verdict.grade, verdict.bottleneck) == ("starved", "device decode/transform")


def test_a_copy_of_pageable_memory_on_the_compute_stream() -> None:
    loop = Loop(lambda _: 1.0, 1, transfer=10.0, steps=120)
    ceiling = Loop(lambda _: 1.0, 1, steps=120)
    figures, verdict = measure(ceiling, play_cuda(loop), setup(loop, CUDA))
    assert figures["starvation/delivery_pct"] == pytest.approx(50)
    assert (verdict.grade, verdict.bottleneck) == ("starved", "host-to-device copy")
    assert as_override(verdict.advice[0]) == "loader.pin_memory=true"


def test_a_host_that_launches_too_slowly() -> None:
    loop = Loop(lambda _: 0.01, 1, forward=2.0, backward=2.0, optimizer=1.0, steps=120)
    meter = play_cuda(loop, host=12.0)
    slow = Loop(
        lambda _: 0.01, 1, forward=5.0, backward=5.0, optimizer=2.0, steps=120
    )  # the ceiling launches as slowly
    figures, verdict = measure(slow, meter, setup(loop, CUDA))
    assert figures["starvation/drained_pct"] > 95
    assert (verdict.grade, verdict.bottleneck) == ("fed", "host launch overhead")


def test_clocks_that_contradict_each_other() -> None:
    loop = Loop(lambda _: 1.0, 1, steps=120)
    meter = play_cuda(loop)
    meter.epochs_ns = [(0, meter.epochs_ns[0][1] // 2)]
    _, verdict = measure(loop, meter, setup(loop, CUDA))
    assert verdict.grade == "inconclusive"
    assert "clock" in verdict.because


def test_the_first_steps_of_an_epoch_come_in_a_burst() -> None:
    """Two workers, 20 ms a batch, steps of 1 ms: batches come two by two every 20 ms, 100 ms for ten."""
    loop = Loop(lambda _: 20.0, 2, forward=0.5, backward=0.5, optimizer=0.0, steps=10, epochs=4)
    meter = play(loop)
    window = measured(meter.steps, 0, ramp=2)
    assert sum(step.host_ns for step in window) / len(window) / 1e6 == pytest.approx(10, abs=0.2)
