"""Grades, inconclusive verdicts, bottlenecks and advice from hand-made evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loaderlab.device.capabilities import CPU, DeviceCapabilities
from loaderlab.device.cpu import Cpu
from loaderlab.diagnosis.advice import threads_to_probe
from loaderlab.diagnosis.evidence import Evidence, Setup, as_override, expected_rate
from loaderlab.diagnosis.verdict import grade, judge
from loaderlab.loaders.capabilities import Copying, LoaderCapabilities
from loaderlab.loaders.resolve import (
    DaliSettings,
    NativeSettings,
    SpdlSettings,
    dali_capabilities,
    native_capabilities,
    spdl_capabilities,
)

GPU = DeviceCapabilities(
    asynchronous=True, uses_host_cores=False, takes_copies=True, decodes_images=True, fast_bf16=False
)
PAGEABLE, PINNED = Copying(False, False, False), Copying(True, False, False)


def native(copying: Copying = PAGEABLE, decoder: str = "torchcodec", *, persistent: bool = True) -> LoaderCapabilities:
    """Capabilities of the native loader with two workers."""
    return native_capabilities(NativeSettings(2, 2, persistent, copying, "fork", decoder), batched=True)


def dali(num_threads: int, decode: str) -> LoaderCapabilities:
    return dali_capabilities(DaliSettings(num_threads, decode, 2), Cpu())


SPDL = spdl_capabilities(SpdlSettings(2, 3, PAGEABLE, "torchcodec", "on"))
SETUP = Setup(native(), GPU, cores=8, threads=1, batch_size=64, image_files=True)
FED = Evidence(100, 1.0, 1.0, (0.5, 1.5), rate=970, ceiling=1000, loader_alone=5000, contended=980, loader_cores=2)
STARVED = Evidence(
    100,
    50,
    50,
    (48, 52),
    rate=500,
    ceiling=1000,
    loader_alone=500,
    contended=990,
    loader_cores=2,
    stages={"prepare": 3.9e-3, "collate": 1e-4},
)


@pytest.mark.parametrize(
    ("share", "name"), [(0, "fed"), (4.99, "fed"), (5, "partly starved"), (19.9, "partly starved"), (20, "starved")]
)
def test_grades(share: float, name: str) -> None:
    assert grade(share) == name


def test_fed_says_what_a_faster_loader_could_give() -> None:
    verdict = judge(FED, SETUP)
    assert (verdict.grade, verdict.bottleneck) == ("fed", "device compute")
    assert "a faster loader can give at most 1.03x" in str(verdict)


@pytest.mark.parametrize(
    ("share", "start"),
    [
        (50.0, "starved of data 50.0 % of the time (95 % CI 48.0 to 52.0); "),
        (9.0, "partly starved: starved of data 9.0 % of the time; "),
        (1.0, "fed: starved of data 1.0 % of the time; "),
    ],
)
def test_the_sentence_names_the_grade_once(share: float, start: str) -> None:
    interval = STARVED.starved_interval if share == STARVED.starved_pct else None
    verdict = judge(replace(STARVED, starved_pct=share, starved_interval=interval, ceiling=None), SETUP)
    assert str(verdict).startswith(start)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"num_steps": 14}, "only 14 steps were measured; at least 15 are needed"),
        ({"num_steps": 1}, "only 1 step was measured"),
        ({"num_steps": 0}, "no step was measured"),
        (
            {"starved_pct": 7, "starved_interval": (4, 11), "ceiling": 1080, "contended": None},
            "the confidence interval reaches from fed to partly starved: a faster loader could give between 1.04x and 1.11x",
        ),
        (
            {"starved_pct": 12, "starved_interval": (2, 22), "ceiling": None},
            "the confidence interval reaches from fed to starved: a faster loader could give between 1.02x and 1.28x",
        ),
        ({"clocks_pct": 9.0}, "the clocks of host and device differ by 9.0 %"),
        ({"ceiling": 800}, "the ceiling (800 samples/s) is below the rate of the run (970 samples/s)"),
        (
            {"ceiling": 1500, "contended": 1400},
            "without the loader the loop runs 1.55x as fast, and no measurement explains why",
        ),
        ({"ceiling": 1500, "contended": None}, "and no contention probe was made that could explain why"),
        (
            {"starved_pct": 40, "starved_interval": (38, 42), "ceiling": 1000},
            "the starved share of 40 % means that a perfect loader would give 1.61x, but the ceiling shows only 1.03x",
        ),
    ],
)
def test_an_inconclusive_verdict_gives_its_reason(changes: dict[str, Any], why: str) -> None:
    verdict = judge(replace(FED, **changes), SETUP)
    assert verdict.grade == "inconclusive"
    assert why in verdict.because
    assert verdict.bottleneck is None
    assert verdict.advice


@pytest.mark.parametrize(
    ("starved", "interval", "name", "between"),
    [
        (4.9, (4.2, 5.6), "fed", "fed and partly starved"),  # at most 1.06x at either end: not worth a change
        (6.0, (4.0, 8.0), "partly starved", "fed and partly starved"),
        (19.0, (16.0, 22.0), "partly starved", "partly starved and starved"),  # worth doing at either end
    ],
)
def test_a_borderline_share_is_graded(starved: float, interval: tuple[float, float], name: str, between: str) -> None:
    """The interval covers two grades, and both its ends call for the same action."""
    verdict = judge(replace(FED, starved_pct=starved, starved_interval=interval, ceiling=None), SETUP)
    assert verdict.grade == name
    assert f"borderline between {between}" in verdict.because
    assert f"(95 % CI {interval[0]:.1f} to {interval[1]:.1f})" in verdict.because
    assert f"at most {1 / (1 - starved / 100):.2f}x" in verdict.because


def test_a_ceiling_bounds_the_gain_at_both_ends_of_an_interval() -> None:
    """The share alone allows 1.02x to 1.14x, but the ceiling only 1.03x: no change is worthwhile at either end."""
    verdict = judge(replace(FED, starved_pct=4.5, starved_interval=(2, 12)), SETUP)
    assert verdict.grade == "fed"
    assert "borderline" in verdict.because


FAST = replace(  # four workers that sleep, 8 % starved: the loader alone is twice as fast as the step
    STARVED,
    starved_pct=8.4,
    starved_interval=(7.9, 8.9),
    rate=1310,
    ceiling=1423,
    loader_alone=2934,
    contended=1420,
    loader_cores=0.2,
    stages=None,
    cpu_pct=10.0,
)


@pytest.mark.parametrize(
    ("changes", "name", "override"),
    [
        ({"typical_share": 0.9}, "batch hand-over", ""),  # half as many hand-overs would gain only 4 %: no advice
        ({"typical_share": 0.0}, "uneven batches", "loader.prefetch_factor=4"),
        ({"typical_share": 0.0, "early_share": 0.8}, "start of each epoch", "loader.persistent_workers=true"),
        # waits of 17 % are more than the tolerance between two rates measured one after the other
        (
            {"typical_share": 0.9, "rate": 1180, "starved_pct": 17.0, "starved_interval": (16, 18)},
            "batch hand-over",
            "batch_size=128",
        ),
        # the run read its files from the disk; the probe reads them again from memory
        ({"rate": 1180, "starved_pct": 17.0, "starved_interval": (16, 18), "read_mib_per_s": 90.0}, "storage", ""),
    ],
)
def test_a_loader_that_is_faster_than_the_step(changes: dict[str, Any], name: str, override: str) -> None:
    """The step does not wait for the loader's production, so neither the disk nor decoding is the bottleneck."""
    setup = replace(SETUP, loader=native(persistent=False), image_files=False)
    verdict = judge(replace(FAST, **changes), setup)
    assert verdict.bottleneck == name
    if override:
        assert as_override(verdict.advice[0]) == override
    if name != "storage":
        assert "alone, the loader delivers 2,934 samples/s and the step needs 1,423;" in verdict.because


def test_a_fast_loader_without_workers_is_still_waited_for() -> None:
    """Without workers the step waits while each batch is prepared, however fast that is."""
    setup = replace(SETUP, loader=replace(native(), lookahead=0), device=CPU, image_files=False)
    assert judge(replace(FAST, starved_pct=33.0, starved_interval=(32, 34), rate=958), setup).bottleneck == "storage"


def test_a_gain_is_predicted_with_the_threads_that_the_advice_leaves() -> None:
    """The step has two cores without a worker and one core with a worker, so its time changes."""
    setup = replace(
        SETUP,
        loader=native_capabilities(NativeSettings(0, None, False, PAGEABLE, None, "torchcodec"), batched=True),
        device=CPU,
        cores=2,
        threads=2,
        auto_threads=True,
    )
    evidence = replace(STARVED, rate=300, ceiling=600, loader_alone=600, loader_cores=0.1, contended=None, stages=None)
    assert threads_to_probe(evidence, setup) == 1
    unknown = judge(evidence, setup).advice[0]
    assert (as_override(unknown), unknown.gain_x) == ("loader.num_workers=2", None)
    known = replace(evidence, ceiling_by_threads={1: 550.0})
    assert threads_to_probe(known, setup) is None
    advice = judge(known, setup).advice[0]
    assert as_override(advice) == "loader.num_workers=2"
    assert advice.gain_x == pytest.approx(550 / 300)
    assert advice.text == "more workers in parallel, and the step then uses 1 torch thread instead of 2"
    assert threads_to_probe(evidence, replace(setup, auto_threads=False)) is None


def test_dali_that_decodes_on_the_gpu() -> None:
    """The step waits for the pipeline's device part, not for the disk or the CPU, unless the CPU is busy."""
    setup = replace(SETUP, loader=dali(4, "mixed"))
    starved = replace(STARVED, stages=None)
    assert judge(replace(starved, loader_cores=0.4), setup).bottleneck == "device decode/transform"
    assert judge(replace(starved, loader_cores=3.5), setup).bottleneck == "CPU decode/transform"
    eight = replace(setup, loader=dali(8, "cpu"))
    assert judge(replace(starved, loader_cores=1.0), eight).bottleneck == "storage"


@pytest.mark.parametrize(
    ("starved", "gap", "grade_of_both", "name"),
    [
        (59, 60, "starved", "epoch gap"),
        (50, 6, "starved", "CPU decode/transform"),
        (1, 10, "partly starved", "epoch gap"),
    ],
)
def test_the_larger_loss_names_the_bottleneck(starved: float, gap: float, grade_of_both: str, name: str) -> None:
    evidence = replace(
        STARVED, starved_pct=starved, starved_interval=(starved - 0.5, starved + 0.5), ceiling=None, gap_pct=gap
    )
    verdict = judge(evidence, SETUP)
    assert (verdict.grade, verdict.bottleneck) == (grade_of_both, name)
    assert f"{gap} % of the loop is lost between epochs" in verdict.because


def test_more_workers_are_not_advised_if_the_data_allows_only_one() -> None:
    verdict = judge(STARVED, replace(SETUP, max_makers=1, image_files=False))
    assert not [advice for advice in verdict.advice if "num_workers" in advice.setting]


def test_uncertain_rates_are_no_contradiction() -> None:
    verdict = judge(replace(FED, ceiling=850, ceiling_interval=(700, 1000), rate_interval=(900, 1040)), SETUP)
    assert verdict.grade == "fed"


def test_few_steps_of_a_trace_may_be_enough() -> None:
    assert judge(Evidence(5, 40, 40, least_steps=5)).grade == "starved"
    assert judge(Evidence(4, 40, 40, least_steps=5)).grade == "inconclusive"


def test_without_a_ceiling_the_share_bounds_the_gain() -> None:
    verdict = judge(Evidence(50, 50, 50))
    assert verdict.headroom_x == 2
    assert "at most 2.00x (from the starved share alone)" in verdict.because
    assert verdict.bottleneck == "loader"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "CPU decode/transform"),
        ({"stages": {"prepare": 1e-4, "collate": 1e-3}}, "collation or Python"),
        ({"loader_cores": 0.3}, "storage"),
        ({"delivery_pct": 30}, "host-to-device copy"),
        ({"loader_alone": 2000}, "interference"),
        ({"loader_alone": 2000, "cpu_pct": 90.0}, "interference"),
        (
            {"loader_alone": 20_000, "cpu_pct": 6.0},
            "storage",
        ),  # the probe read from memory, the run from a disk
        # also idle, but nearly all the loss is in steps that are slower than at the ceiling; slow files cannot cause that
        (
            {
                "loader_alone": 2300,
                "ceiling": 1446,
                "rate": 1063,
                "starved_pct": 9.3,
                "starved_interval": None,
                "cpu_pct": 54.0,
            },
            "interference",
        ),
        ({"cold": 510, "warm": 900}, "storage"),
        ({"cold": 300, "warm": 510}, "CPU decode/transform"),  # the run was as fast as with a warm cache
        ({"cold": 505, "warm": 510}, "CPU decode/transform"),
        ({"stages": None, "loader_cores": None}, "loader"),
    ],
)
def test_bottlenecks_of_a_starved_device(changes: dict[str, Any], name: str) -> None:
    assert judge(replace(STARVED, **changes), SETUP).bottleneck == name


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"drained_pct": 90}, "host launch overhead"),
        ({"drained_pct": 10}, "device compute"),
        # the scaler of fp16 waits for the device in each step, so drained_pct is no evidence; the host's own time is
        (
            {
                "drained_pct": 99,
                "phases_ms": {"forward": 10.0, "backward": 20.0, "host_forward": 3.0, "host_backward": 2.0},
            },
            "device compute",
        ),
        (
            {
                "drained_pct": 99,
                "phases_ms": {"forward": 10.0, "backward": 20.0, "host_forward": 9.0, "host_backward": 19.0},
            },
            "host launch overhead",
        ),
        ({"ceiling": 1500, "contended": 1000}, "interference"),
        ({"idle_pct": 40.0, "ceiling": None}, "host launch overhead"),
        ({"idle_pct": 2.0, "copy_pct": 30.0, "ceiling": None}, "host-to-device copy"),
    ],
)
def test_bottlenecks_of_a_fed_device(changes: dict[str, Any], name: str) -> None:
    assert judge(replace(FED, **changes), SETUP).bottleneck == name


@pytest.mark.parametrize(
    ("evidence", "setup", "override"),
    [
        (STARVED, SETUP, "loader.num_workers=5"),  # 250/s each: 4 reach the ceiling, 5 the ceiling plus 10 %
        (STARVED, replace(SETUP, cores=3), "loader=dali"),
        (
            STARVED,
            replace(SETUP, cores=3, loader=native(decoder="pillow")),
            "loader.decoder=torchcodec",
        ),
        (STARVED, replace(SETUP, loader=SPDL), "loader.num_threads=5"),
        (
            replace(STARVED, stages={"prepare": 1e-4, "collate": 3.9e-3}),
            replace(SETUP, loader=SPDL),
            "loader=native",
        ),
        (
            replace(STARVED, stages=None),
            replace(SETUP, image_files=False, in_memory=True, fits_on_device=True),
            "loader=resident",
        ),
        (
            replace(STARVED, stages=None),
            replace(SETUP, image_files=False, in_memory=True),
            "loader.num_workers=0",
        ),
        (
            replace(STARVED, delivery_pct=40),
            replace(SETUP, image_files=False, in_memory=True, fits_on_device=True),
            "loader=resident",
        ),
        (replace(STARVED, delivery_pct=40), SETUP, "loader.pin_memory=true"),
        (replace(STARVED, delivery_pct=40), replace(SETUP, loader=native(PINNED)), "loader.non_blocking=true"),
        (
            replace(STARVED, delivery_pct=40),
            replace(SETUP, loader=native(Copying(True, True, None)), normalized_by_loader=True),
            "data.transform.normalize_on=device",
        ),
        (replace(FED, drained_pct=90), SETUP, "batch_size=128"),
        (FED, replace(SETUP, device=replace(GPU, fast_bf16=True)), "precision=bf16"),
        (
            STARVED,
            replace(SETUP, loader=dali(4, "cpu"), cores=8),
            "loader.num_threads=8",
        ),
        (replace(FED, gap_pct=30), replace(SETUP, loader=native(persistent=False)), "loader.persistent_workers=true"),
        (replace(FED, ceiling=1500, contended=1000), replace(SETUP, device=CPU, threads=8), "torch_threads=6"),
        (replace(FED, ceiling=1500, contended=1000), SETUP, "loader.num_workers=1"),
    ],
)
def test_the_first_advice_as_an_override(evidence: Evidence, setup: Setup, override: str) -> None:
    assert as_override(judge(evidence, setup).advice[0]) == override


def test_the_gain_of_more_workers_is_bounded_by_shared_cores() -> None:
    """On a CPU: the loader makes 500/s on 2 of 4 cores, the step 1,000/s on 1 core: 4 / (2/500 + 1/1000) = 800/s."""
    verdict = judge(STARVED, replace(SETUP, device=CPU, cores=4))
    assert as_override(verdict.advice[0]) == "loader.num_workers=4"
    assert verdict.advice[0].gain_x == pytest.approx(1.6)
    assert "(expected gain about 1.60x)" in str(verdict)


def test_advice_without_a_gain_is_left_out() -> None:
    tight = replace(STARVED, ceiling=520, starved_pct=5.5, starved_interval=(5.2, 5.8))
    assert not judge(tight, SETUP).advice


def test_expected_rate() -> None:
    assert expected_rate(STARVED, SETUP) == 500
    alone = replace(SETUP, loader=replace(native(), lookahead=0), device=CPU)
    # measured in a run with these rates: 473/s
    assert expected_rate(replace(STARVED, ceiling=1000, loader_alone=925), alone) == pytest.approx(480.5, abs=0.1)
    queued = replace(
        STARVED, loader_alone=1000, phases_ms={"host_wait": 99.0, "host_forward": 20.0, "host_backward": 12.0}
    )
    assert expected_rate(queued, replace(SETUP, loader=replace(native(), lookahead=0))) == pytest.approx(
        1 / (1e-3 + 32e-3 / 64)
    )
