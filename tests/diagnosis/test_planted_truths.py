"""Simulated loops with planted causes: the metrics are exact, and the verdict names the right grade and bottleneck."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loaderlab.diagnosis.evidence import as_override
from loaderlab.loaders.capabilities import LoaderCapabilities, Queue
from loaderlab.meter.summary import measured
from tests.simulated import CUDA, Loop, loader, measure, play, play_cuda, setup


@pytest.mark.parametrize(
    ("workers", "starved", "headroom"),
    [(0, 50.0, 2.0), (1, 0.0, 1.0), (2, 0.0, 1.0)],
)
def test_a_known_sleep_per_sample(workers: int, starved: float, headroom: float) -> None:
    """10 ms per batch and steps of 10 ms: without workers half of the time is lost; one worker hides all of it."""
    loop = Loop(lambda _: 10.0, workers, busy=0.02)
    figures, verdict = measure(loop, play(loop), setup(loop))
    assert figures["starvation/starved_pct"] == pytest.approx(starved, abs=1e-3)
    assert verdict.headroom_x == pytest.approx(headroom, abs=1e-3)
    assert (verdict.grade, verdict.bottleneck) == (
        ("starved", "storage") if workers == 0 else ("fed", "device compute")
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_that_are_too_slow(workers: int) -> None:
    """45 ms per batch: n workers deliver one every 45 / n ms, and bursts of n batches do not hide the wait."""
    loop = Loop(lambda _: 45.0, workers, steps=211, epochs=3)
    figures, verdict = measure(loop, play(loop), setup(loop))
    # 211 steps: with 2 and 3 workers the window may end inside a burst, which is at most one batch in 200
    assert figures["starvation/starved_pct"] == pytest.approx(100 * (1 - 10 / (45 / workers)), abs=0.5)
    assert (verdict.grade, verdict.bottleneck) == ("starved", "CPU decode/transform")
    assert verdict.headroom_x == pytest.approx(4.5 / workers, rel=0.01)
    more = verdict.advice[0]
    assert as_override(more) == "loader.num_workers=5"  # 45 ms / 10 ms, plus 10 %
    assert more.gain_x == pytest.approx(4.5 / workers, rel=0.01)


def test_collation_that_costs_more_than_the_samples() -> None:
    loop = Loop(lambda _: 30.0, 1, stages={"prepare": 0.2, "collate": 0.8})
    _, verdict = measure(loop, play(loop), setup(loop, loader=loader(1, collates_samples=True)))
    assert (verdict.grade, verdict.bottleneck) == ("starved", "collation or Python")
    assert as_override(verdict.advice[0]) == "loader.batched=true"


def test_data_in_memory_behind_a_worker() -> None:
    loop = Loop(lambda _: 30.0, 1, stages={"prepare": 0.0, "collate": 0.03})  # the hand-over takes the rest
    _, verdict = measure(loop, play(loop), setup(loop, in_memory=True))
    assert (verdict.bottleneck, as_override(verdict.advice[0])) == ("collation or Python", "loader.num_workers=0")


def test_a_slow_copy() -> None:
    loop = Loop(lambda _: 1.0, 2, transfer=10.0)
    meter = play(loop)
    ceiling = Loop(lambda _: 1.0, 2)  # its batches are on the device already, so there is no copy
    figures, verdict = measure(ceiling, meter, setup(loop))
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
    assert as_override(verdict.advice[0]) == "batch_size=20"
    assert "the optimizer takes 79 % of the step" in verdict.to_try[0]


@pytest.mark.parametrize("steps", [100, 150, 200, 333])
def test_a_stall_every_tenth_batch(steps: int) -> None:
    """The host waits 100 ms in one of ten batches, 100 of 200 ms; a median does not show it."""
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


def test_late_batches_of_a_loader_that_is_fast_enough() -> None:
    """Ten batches take 155 ms and ten steps 200 ms, but the queue of two batches does not last through the late one."""
    loop = Loop(
        lambda index: 110.0 if index % 10 == 9 else 5.0, 1, forward=12.0, backward=6.0, optimizer=2.0, steps=300
    )
    queue = Queue(loop.prefetch, "loader.prefetch_factor")
    figures, verdict = measure(loop, play(loop), setup(loop, loader=loader(1, queue=queue)))
    assert figures["starvation/starved_pct"] > 5
    assert verdict.bottleneck == "uneven batches"
    name, _, length = as_override(verdict.advice[0]).partition("=")
    assert name == "loader.prefetch_factor"
    longer = replace(loop, prefetch=int(length))
    assert measure(longer, play(longer), setup(longer))[0]["starvation/starved_pct"] < 1


def test_onset_after_100_steps() -> None:
    loop = Loop(lambda index: 0.0 if index < 100 else 10.0)
    meter = play(loop)
    figures, verdict = measure(loop, meter, setup(loop))
    assert figures["starvation/starved_pct"] == pytest.approx(100 * 1000 / 2900)
    assert verdict.grade == "starved"
    assert "50.0 %" in verdict.because
    assert "since step 100 (0.0 % before it;" in verdict.because


def test_an_epoch_gap() -> None:
    """Workers that restart each epoch: fed within epochs, and 100 of 400 ms lost between them, seven times."""
    loop = Loop(lambda _: 1.0, 2, steps=30, epochs=8, start=99.0)
    figures, verdict = measure(loop, play(loop), setup(loop))
    assert figures["starvation/starved_pct"] == 0
    assert (verdict.grade, verdict.bottleneck) == ("starved", "epoch gap")
    assert as_override(verdict.advice[0]) == "loader.persistent_workers=true"
    assert verdict.because.startswith("23 % of the loop is lost between epochs")  # 700 of 3,100 ms


def test_a_loader_that_takes_the_cores_of_the_step() -> None:
    loop = Loop(lambda _: 10.0, 2, slowed=1.6)
    figures, verdict = measure(loop, play(loop), setup(loop, cores=2, threads=2))
    assert figures["starvation/starved_pct"] == 0
    assert (verdict.grade, verdict.bottleneck) == ("fed", "interference")
    assert verdict.headroom_x == pytest.approx(1.6)
    assert as_override(verdict.advice[0]) == "torch_threads=1"


def test_a_starved_loop_whose_step_was_slow_for_no_known_reason_is_inconclusive() -> None:
    """The starved share allows a gain of 2x; the ceiling, measured after another program had ended, would allow 8x."""
    loop = Loop(lambda _: 40.0, 0, slowed=4.0)
    meter = play(loop)
    loop.slowed = 1.0
    figures, verdict = measure(loop, meter, setup(loop))
    assert figures["starvation/starved_pct"] == pytest.approx(50, abs=1)
    assert (verdict.grade, verdict.bottleneck) == ("inconclusive", None)
    assert "no measurement explains why" in verdict.because


def test_a_slow_step_that_nothing_explains_is_inconclusive() -> None:
    loop = Loop(lambda _: 1.0, 2, slowed=1.6)
    meter = play(loop)
    loop.slowed = 1.0  # the probes do not measure the slow step
    _, verdict = measure(loop, meter, setup(loop))
    assert (verdict.grade, verdict.bottleneck) == ("inconclusive", None)
    assert "no measurement explains why" in verdict.because


# ---- an asynchronous device ------------------------------------------------------------------------------------


def test_a_host_wait_during_which_the_device_works_is_not_starvation() -> None:
    """The true share is 10 %: in each step of 10 ms the host waits 9 ms, and the device has no work for 1 ms."""
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
    decoding_setup = setup(loop, CUDA, loader=LoaderCapabilities(decodes_on_device=True))
    figures, verdict = measure(loop, play_cuda(loop, side_stream=lambda _: 20.0), decoding_setup)
    # the host needs 2 ms per step and soon runs ahead, so each batch is decoded before the device needs it
    assert figures["starvation/starved_pct"] == pytest.approx(0, abs=0.5)
    slow = play_cuda(loop, host=15.0, side_stream=lambda _: 5.0)
    figures, verdict = measure(loop, slow, decoding_setup)
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
    """Two workers, 20 ms per batch, steps of 1 ms: two batches come every 20 ms, so ten batches take 100 ms."""
    loop = Loop(lambda _: 20.0, 2, forward=0.5, backward=0.5, optimizer=0.0, steps=10, epochs=4)
    meter = play(loop)
    window = measured(meter.steps, 0, ramp=2)
    assert sum(step.host_ns for step in window) / len(window) / 1e6 == pytest.approx(10, abs=0.2)
