"""How much of an emulated accelerator a host feeds: the numbers, the words, and the verdict on an emulated device."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import pytest

from loaderlab.device.capabilities import EMULATED
from loaderlab.diagnosis.advice import advise
from loaderlab.diagnosis.capacity import Capacity, capacity_of, capacity_text
from loaderlab.diagnosis.evidence import DECODE, Evidence, RequestedSpeed, Setup
from loaderlab.diagnosis.figures import evidence_of, figures_of
from loaderlab.diagnosis.verdict import judge
from loaderlab.loaders.capabilities import Copying, LoaderCapabilities, Makers
from loaderlab.meter.rates import LoaderRate, ProbeResults
from loaderlab.report import run_page
from tests.simulated import Loop, loader, play_cuda, record, setup

A100 = RequestedSpeed("emulated resnet50_a100", 1000.0, 2.0, 0.9, is_mlperf=True)
TWO = Setup(loader(2), EMULATED, cores=2, threads=1, batch_size=100, image_files=True, accelerator=A100)
THREADS = replace(loader(2), makers=Makers(2, "loader.num_threads", are_processes=False, whole_batches=True))
FED = Evidence(100, 1, 1.0, rate=990, ceiling=1000, loader_alone=1800, contended=1000, loader_cores=2.0)
STARVED = Evidence(100, 55, 57.0, (56, 58), rate=430, ceiling=1000, loader_alone=450, contended=990, loader_cores=2.0)


def with_makers(count: int, **changes: Any) -> Setup:
    return replace(TWO, loader=loader(count), **changes)


def numbers(capacity: Capacity | None) -> tuple[float | None, ...]:
    """Accelerators fed, workers needed, cores needed, utilization."""
    assert capacity is not None
    assert capacity.limit is None
    return astuple(capacity)[:4]


def test_the_capacity_is_linear_in_the_loaders_own_rate() -> None:
    # 2 cores / 450 samples/s is 4.44 ms of CPU time per sample; queuing a step of 100 samples adds 0.02 ms
    assert numbers(capacity_of(STARVED, TWO)) == pytest.approx((0.45, 2 / 0.45, 1000 * (2 / 450 + 0.002 / 100), 0.43))


def test_the_process_itself_counts_as_one_worker() -> None:
    capacity = capacity_of(replace(STARVED, loader_alone=250), with_makers(0))
    assert capacity is not None
    assert capacity.workers_needed == pytest.approx(4)


def test_a_sleep_needs_no_core() -> None:
    capacity = capacity_of(replace(STARVED, loader_cores=0.0), replace(TWO, accelerator=replace(A100, host_ms=0)))
    assert capacity is not None
    assert capacity.cores_needed == 0
    assert capacity.workers_needed is not None


def test_what_was_not_measured_is_none() -> None:
    assert numbers(capacity_of(replace(STARVED, loader_alone=None), TWO)) == (None, None, None, 0.43)
    assert capacity_of(STARVED, replace(TWO, accelerator=None)) is None
    without_makers = capacity_of(STARVED, replace(TWO, loader=LoaderCapabilities()))
    assert without_makers is not None
    assert without_makers.workers_needed is None
    assert without_makers.cores_needed is not None
    assert numbers(capacity_of(replace(STARVED, rate=None, loader_cores=None), TWO)) == (0.45, 2 / 0.45, None, None)


@pytest.mark.parametrize(
    ("evidence", "given", "text"),
    [
        (
            STARVED,
            TWO,
            "with 2 workers this host feeds 0.45 of an emulated resnet50_a100 (1,000 samples/s); about 4.5 cores (this host "
            "has 2) and 5 workers would feed one; not measured beyond 2 workers. MLPerf Storage: utilization 0.43, below "
            "0.90: does not pass",
        ),
        (
            replace(STARVED, loader_cores=0.01),
            with_makers(1, cores=8),
            "with 1 worker this host feeds 0.45 of an emulated resnet50_a100 (1,000 samples/s); about 0.1 cores or less and "
            "3 workers would feed one; not measured beyond 1 worker. MLPerf Storage: utilization 0.43, below 0.90: does not pass",
        ),
        (
            STARVED,
            with_makers(0, cores=8),
            "without workers this host feeds 0.45 of an emulated resnet50_a100 (1,000 samples/s); about 4.5 cores and 3 "
            "workers would feed one; not measured with workers. MLPerf Storage: utilization 0.43, below 0.90: does not pass",
        ),
        (
            STARVED,
            replace(TWO, loader=THREADS, max_makers=1),
            "with 2 threads this host feeds 0.45 of an emulated resnet50_a100 (1,000 samples/s); about 4.5 cores (this host "
            "has 2) and 5 threads would feed one; not measured beyond 2 threads; this data allows at most 1 thread. MLPerf "
            "Storage: utilization 0.43, below 0.90: does not pass",
        ),
        (
            FED,
            TWO,
            "with 2 workers the loader alone could feed 1.8 emulated resnet50_a100 accelerators (1,000 samples/s each); one needs about 1.1 cores "
            "and 2 workers. MLPerf Storage: utilization 0.99, at least 0.90: passes",
        ),
        (
            FED,
            with_makers(0),
            "without workers the loader alone could feed 1.8 emulated resnet50_a100 accelerators (1,000 samples/s each); one needs about 1.1 "
            "cores. MLPerf Storage: utilization 0.99, at least 0.90: passes",
        ),
        (
            replace(FED, rate=600),
            TWO,
            "with 2 workers the loader alone could feed 1.8 emulated resnet50_a100 accelerators (1,000 samples/s each), but in the run it "
            "fed 0.60 of one. MLPerf Storage: utilization 0.60, below 0.90: does "
            "not pass",
        ),
        (
            replace(FED, loader_alone=500_000, loader_cores=1.0),
            replace(TWO, loader=LoaderCapabilities(keeps_samples_on_device=True)),
            "the loader alone could feed 500 emulated resnet50_a100 accelerators (1,000 samples/s each). MLPerf "
            "Storage: utilization 0.99, at least 0.90: passes",
        ),
        (
            replace(FED, loader_alone=None, loader_cores=None),
            TWO,
            "unknown for an emulated resnet50_a100 (1,000 samples/s), since the loader was not measured alone. MLPerf "
            "Storage: utilization 0.99, at least 0.90: passes",
        ),
        (
            replace(FED, loader_alone=760),
            TWO,
            "unknown, since the loader alone fed 0.76 of an emulated resnet50_a100 (1,000 samples/s), less than the run (0.99). "
            "Run it again on an idle machine. MLPerf Storage: utilization 0.99, at least 0.90: passes",
        ),
        (FED, replace(TWO, loader=LoaderCapabilities(loads_nothing=True)), ""),
        (FED, replace(TWO, accelerator=None), ""),
    ],
)
def test_the_capacity_in_words(evidence: Evidence, given: Setup, text: str) -> None:
    assert capacity_text(evidence, given) == text


@pytest.mark.parametrize(
    ("rate", "speed", "text"),
    [
        (900, A100, "MLPerf Storage: utilization 0.90, at least 0.90: passes"),
        (899.6, A100, "MLPerf Storage: utilization 0.8996, below 0.90: does not pass"),
        (860, replace(A100, min_utilization=0.85), "MLPerf Storage: utilization 0.86, at least 0.85: passes"),
        (860, replace(A100, is_mlperf=False), "By MLPerf Storage's rule (0.90): utilization 0.86, does not pass"),
        (910, replace(A100, is_mlperf=False), "By MLPerf Storage's rule (0.90): utilization 0.91, passes"),
    ],
)
def test_mlperfs_rule(rate: float, speed: RequestedSpeed, text: str) -> None:
    assert capacity_text(replace(FED, rate=rate), replace(TWO, accelerator=speed)).endswith(f". {text}")


def test_an_estimate_close_to_a_whole_number_is_not_rounded_up() -> None:
    text = capacity_text(replace(STARVED, loader_alone=990), TWO)  # 2.02 workers
    assert "and 2 workers would feed one. MLPerf" in text


def test_the_capacity_is_a_separate_part_of_the_verdict() -> None:
    verdict = judge(STARVED, TWO)
    assert verdict.capacity.startswith("with 2 workers this host feeds 0.45 of an emulated")
    assert verdict.tags()["capacity"] == verdict.capacity
    assert str(verdict).endswith(f" Capacity: {verdict.capacity}.")
    assert verdict.capacity not in verdict.because
    assert f"**Capacity**: {verdict.capacity}." in run_page.markdown("a run", {}, {}, verdict)


def test_the_verdict_on_a_real_device_is_unchanged() -> None:
    real = judge(STARVED, replace(TWO, accelerator=None, device=replace(EMULATED, emulated=False)))
    assert "capacity" not in real.tags()
    assert "emulated" not in f"{real} {real.tags()}"
    assert real.sentence.startswith("starved of data 57.0 % of the time")


def test_too_few_steps_show_no_capacity() -> None:
    assert judge(replace(STARVED, num_steps=14), TWO).capacity == ""


@pytest.mark.parametrize(
    "evidence",
    [FED, STARVED, replace(FED, num_steps=0), replace(FED, num_steps=5), replace(FED, clocks_pct=9.0)],
    ids=["fed", "starved", "no step", "few steps", "clocks"],
)
def test_the_verdict_on_an_emulated_device_says_so(evidence: Evidence) -> None:
    assert "the emulated accelerator" in judge(evidence, TWO).sentence


def test_no_advice_speeds_up_a_step_of_fixed_speed() -> None:
    verdict = judge(replace(FED, phases_ms={"forward": 1, "backward": 1, "optimizer": 8}), TWO)
    assert (verdict.grade, verdict.bottleneck, verdict.advice) == ("fed", "device compute", ())


def test_an_emulated_device_decodes_no_images() -> None:
    assert not [text for text in judge(STARVED, TWO).to_try if "GPU" in text]


def test_host_launch_overhead_of_an_emulated_device_is_a_setting() -> None:
    verdict = judge(replace(FED, drained_pct=90.0), TWO)
    assert verdict.bottleneck == "host launch overhead"
    assert verdict.to_try == ["batch_size=200: queuing a step takes 2 ms (accelerator.host_ms), so use larger batches"]


def test_advice_to_keep_samples_says_where_they_stay() -> None:
    [first, *_] = judge(STARVED, replace(TWO, image_files=False, in_memory=True, fits_on_device=True)).to_try
    assert first.startswith("loader=resident: data this small can stay in memory as batches")


def test_the_words_and_the_metrics_cover_the_same_steps() -> None:
    """The worker needs 40 ms per batch for half of the run, and then keeps up: 250 steps of 40 ms, 250 steps of 10 ms."""
    loop = Loop(lambda index: 40.0 if index < 250 else 1.0, workers=1, steps=500)
    given = setup(loop, EMULATED, accelerator=A100)
    loop_record, probes = record(play_cuda(loop), 10, 1), ProbeResults(loader_alone=LoaderRate(1200.0, 0.5))
    evidence, figures = evidence_of(loop_record, probes), figures_of(loop_record, probes, given)
    assert evidence.change is not None
    assert evidence.rate == pytest.approx(1000, rel=0.02)
    assert figures["capacity/utilization_pct"] == pytest.approx(40, abs=1)
    assert "utilization 0.40, below 0.90: does not pass" in judge(evidence, given).capacity


def test_the_metrics_of_an_emulated_run() -> None:
    """Batches of 10 in 10 ms are 1,000 samples/s; one worker delivers a batch every 20 ms."""
    loop = Loop(lambda _: 20.0, workers=1)
    meter = play_cuda(loop)
    given = setup(loop, EMULATED, accelerator=replace(A100, host_ms=1.0))
    probes = ProbeResults(loader_alone=LoaderRate(500.0, 0.5))
    figures = figures_of(record(meter, 10, 1), probes, given)
    assert {name: value for name, value in figures.items() if name.startswith("capacity/")} == {
        "capacity/utilization_pct": pytest.approx(50, abs=0.5),
        "capacity/accelerators_fed": pytest.approx(0.5),
        "capacity/workers_needed": pytest.approx(2),
        "capacity/cores_needed": pytest.approx(1000 * (0.5 / 500 + 0.001 / 10)),
    }
    real = figures_of(record(meter, 10, 1), probes, replace(given, accelerator=None))
    assert not [name for name in real if name.startswith("capacity/")]


def test_the_work_of_a_loader_on_an_emulated_device_is_the_hosts() -> None:
    """Without memory of its own, the emulated device selects and transforms nothing: the host's cores do it."""
    resident = replace(TWO, loader=LoaderCapabilities(keeps_samples_on_device=True, prepares_on_device=True))
    evidence = replace(STARVED, delivery_pct=STARVED.starved_pct)
    verdict = judge(evidence, resident)
    assert verdict.bottleneck == "CPU decode/transform"
    assert "points in which the host prepared the batch" in verdict.because
    on_gpu = judge(evidence, replace(resident, device=replace(EMULATED, emulated=False), accelerator=None))
    assert on_gpu.bottleneck == "device decode/transform"


def given_copying(copy_ms: float, *, host_ms: float = 2.0, **copying: bool) -> Setup:
    """A step of 100 ms whose batches are copied."""
    how = Copying(**{"pin_memory": True, "non_blocking": True, "side_stream": True, **copying})
    speed = replace(A100, host_ms=host_ms, copy_ms=copy_ms)
    return replace(TWO, loader=replace(loader(2), copying=how), accelerator=speed)


@pytest.mark.parametrize(
    ("given", "cycle_ms"),
    [
        (given_copying(0, host_ms=200), 200),
        (given_copying(90), 100),  # hidden behind the step
        (given_copying(250), 250),
        (given_copying(25, side_stream=False), 125),
        (given_copying(25, side_stream=False, host_ms=150), 150),  # the host queues the next step meanwhile
        (given_copying(25, side_stream=False, non_blocking=False, host_ms=150), 175),  # and here it waits
        (given_copying(25, side_stream=False, non_blocking=False, pin_memory=False), 125),
        (given_copying(5, side_stream=False), 100),  # 0.95 counts as fed
    ],
)
def test_queuing_and_copying_limit_what_any_loader_can_give(given: Setup, cycle_ms: float) -> None:
    """The cycles are those of the emulated streams: see the copying cases of tests/training/test_emulated.py."""
    capacity = capacity_of(STARVED, given)
    assert capacity is not None
    if cycle_ms == 100:
        assert capacity.limit is None
        assert capacity.workers_needed is not None
        return
    assert capacity.limit is not None
    assert capacity.limit.share == pytest.approx(100 / cycle_ms)
    assert (capacity.workers_needed, capacity.cores_needed) == (None, None)  # no number of them is enough
    assert capacity.accelerators_fed == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("given", "evidence", "text"),
    [
        (
            given_copying(0, host_ms=200),
            STARVED,
            "0.50 of one can be used: queuing a step takes 200 ms (accelerator.host_ms), and the step takes 100 ms. MLPerf",
        ),
        (
            given_copying(25, side_stream=False),
            STARVED,
            "0.80 of one can be used: the copy of a batch takes 25 ms and its step 100 ms, one after the other. MLPerf",
        ),
        (
            given_copying(250),
            STARVED,
            "0.40 of one can be used: the copy of a batch takes 250 ms and its step 100 ms. MLPerf",
        ),
    ],
)
def test_the_limit_in_words(given: Setup, evidence: Evidence, text: str) -> None:
    words = capacity_text(evidence, given)
    assert words.startswith(
        "with 2 workers this host feeds 0.45 of an emulated resnet50_a100 (1,000 samples/s); with any "
    )
    assert text in words
    assert "would feed" not in words


def test_a_loader_that_loads_nothing_has_no_capacity() -> None:
    """Its utilization would look like a result of the host's loader."""
    replay = replace(TWO, loader=LoaderCapabilities(loads_nothing=True))
    assert capacity_of(FED, replay) is None
    assert capacity_text(FED, replay) == ""


def test_gaps_between_epochs_are_named_next_to_the_rule() -> None:
    """The utilization is that of the measured window, which leaves them out."""
    text = capacity_text(replace(FED, gap_pct=14.0), TWO)
    assert text.endswith(
        "utilization 0.99, at least 0.90: passes within epochs; between epochs 14 % of the loop is lost"
    )
    assert "between epochs" not in capacity_text(replace(FED, gap_pct=2.0), TWO)


def test_too_few_steps_have_no_utilization() -> None:
    """Otherwise a gate would pass by chance."""
    capacity = capacity_of(replace(FED, num_steps=7), TWO)
    assert capacity is not None
    assert capacity.utilization is None


def test_the_expected_gain_of_more_workers_is_limited_by_the_cores_and_the_copies() -> None:
    """The loader needs a core for 225 samples/s, and queuing 0.02 ms per sample, so 2 cores give at most 448 samples/s."""
    decoding = replace(STARVED, rate=200, loader_alone=225, loader_cores=1.0)
    [more] = advise(decoding, with_makers(1), DECODE)
    assert (more.setting, more.value) == ("loader.num_workers", 2)
    assert more.gain_x == pytest.approx(2 / (1 / 225 + 2e-3 / 100) / 200)
    slow = given_copying(400)  # of a step of 100 ms, so at most 250 samples/s
    [more] = advise(decoding, replace(slow, cores=64), DECODE)
    assert more.gain_x == pytest.approx(250 / 200)
