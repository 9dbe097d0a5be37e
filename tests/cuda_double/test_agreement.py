"""The real loop and meter on the double: what they report against the truth, which is computed from the double's own log."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaderlab import metrics
from loaderlab.device.clock import RING
from loaderlab.diagnosis.figures import NO_PROBES, evidence_of
from loaderlab.diagnosis.verdict import judge
from loaderlab.loaders.capabilities import Copying
from loaderlab.meter.summary import clocks_pct, measured, summarize
from tests import simulated
from tests.cuda_double.intervals import length
from tests.cuda_double.patches import installed
from tests.cuda_double.scenario import BATCH, Loop, Played, double_for, play

POINTS = 0.1
PAGEABLE, PINNED, NON_BLOCKING = (False, False, False), (True, False, False), (True, True, False)
COPIED = Loop(lambda _: 1.0, workers=1, copy_ms=2.0)
LOOPS = {
    "fed by the host itself": Loop(lambda _: 6.0),
    "fed by workers": Loop(lambda _: 8.0, workers=2),
    "starved by the host": Loop(lambda _: 14.0),
    "starved by workers": Loop(lambda _: 30.0, workers=2),
    "starved a little": Loop(lambda _: 9.6, workers=1),
    "alternating": Loop(lambda index: 2.0 if index % 2 else 18.0),
    "bursts": Loop(lambda index: 60.0 if index % 10 == 0 else 1.0, workers=1),
    "launch-bound": Loop(lambda _: 0.5, host=(6.0, 7.0, 2.0), kernels=10),
    "launch-bound and starved": Loop(lambda _: 9.0, host=(6.0, 7.0, 2.0), kernels=10),
    "pageable copies": replace(COPIED, copying=PAGEABLE),
    "pinned copies": replace(COPIED, copying=PINNED),
    "non-blocking copies": replace(COPIED, copying=NON_BLOCKING),
    "copies on a side stream": COPIED,
    "slow copies on a side stream": replace(COPIED, copy_ms=12.0),
    "starved, with copies on a side stream": replace(COPIED, prepare=lambda _: 12.0),
    "work on another stream": Loop(lambda _: 1.0, workers=1, prepared_ms=4.0),
    "much work on another stream": Loop(lambda _: 1.0, workers=1, prepared_ms=15.0),
    "work after the step": Loop(lambda _: 6.0, trailing_ms=5.0),
    "work after the step, starved": Loop(lambda _: 17.0, trailing_ms=5.0),
    "gradient accumulation": Loop(lambda _: 12.0, accumulate=4, epochs=2),
    "evaluation": Loop(lambda _: 12.0, evaluate=True, epochs=3),
    "several epochs": Loop(lambda _: 4.0, epochs=4, steps=12, workers=2),
    "stopped early": Loop(lambda _: 12.0, steps=40, stop_after=29),
    "longer than the ring": Loop(lambda _: 5.0, steps=3 * RING + 5),
}


def played(loop: Loop) -> Played:
    with installed(double_for(loop)) as double:
        return play(loop, double)


def check(loop: Loop) -> None:
    """Compares the meter's record of the loop with the truth."""
    result = played(loop)
    steps = result.meter.settled
    window = measured(steps, 5)
    reported = summarize(window)
    assert reported[metrics.STARVED_PCT] == pytest.approx(result.truth(window), abs=POINTS)
    assert reported[metrics.DELIVERY_PCT] == pytest.approx(result.delivery(window), abs=POINTS)
    seconds = length(result.window(window)) / 1e9
    assert reported[metrics.RATE] == pytest.approx(BATCH * len(window) / seconds, rel=1e-3)
    for step in window:  # each step on its own, so that no error is hidden by another one
        assert step.device is not None
        assert step.length_ms == pytest.approx(length(result.window([step])) / 1e6, abs=1e-3)
        assert step.starved_ms == pytest.approx(result.truth([step]) / 100 * step.length_ms, abs=0.05)
        assert step.device.forward >= loop.phases[0] - 1e-3
        assert step.device.backward >= loop.phases[1] - 1e-3
    host_s = sum(stop - start for start, stop in result.meter.epochs_ns) / 1e9
    after_the_last_pct = 100 * loop.epochs * loop.trailing_ms / 1e3 / host_s  # this work is in no step
    disagreement = clocks_pct(steps, result.meter.epochs_ns, result.meter.epoch_ends_ns)
    assert disagreement == pytest.approx(after_the_last_pct, abs=0.2)
    assert all(step.loss == step.loss for step in steps)


@pytest.mark.parametrize("name", LOOPS)
def test_the_meter_reports_the_truth(name: str) -> None:
    check(LOOPS[name])


ms = st.floats(0.0, 25.0)


@settings(max_examples=20)
@given(
    waits=st.lists(ms, min_size=1, max_size=6),
    workers=st.integers(0, 3),
    phases=st.tuples(st.floats(0.5, 6.0), st.floats(0.5, 9.0), st.floats(0.2, 2.0)),
    host=st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0), st.floats(0.0, 1.0)),
    trailing_ms=st.sampled_from([0.0, 0.0, 3.0]),
    copy_ms=st.floats(0.0, 5.0),
    copying=st.sampled_from([PAGEABLE, PINNED, NON_BLOCKING, (True, True, True)]),
)
def test_the_meter_reports_the_truth_of_random_loops(
    waits: list[float],
    workers: int,
    phases: tuple[float, float, float],
    host: tuple[float, float, float],
    trailing_ms: float,
    copy_ms: float,
    copying: tuple[bool, bool, bool],
) -> None:
    loop = Loop(lambda index: waits[index % len(waits)], workers, phases=phases, host=host, steps=16)
    check(replace(loop, copy_ms=copy_ms, copying=copying, trailing_ms=trailing_ms))


VERDICTS = {
    "fed by workers": ("fed", "device compute"),
    "starved by workers": ("starved", "loader"),
    "pageable copies": ("starved", "host-to-device copy"),
    "non-blocking copies": ("partly starved", "host-to-device copy"),
    "copies on a side stream": ("fed", "device compute"),
    "launch-bound": ("fed", "host launch overhead"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_names_the_bottleneck(name: str) -> None:
    loop = LOOPS[name]
    meter = played(loop).meter
    loader = simulated.loader(loop.workers, copying=Copying(*loop.copying))
    given_setup = replace(simulated.setup(simulated.Loop(lambda _: 0.0)), loader=loader, device=simulated.CUDA)
    verdict = judge(evidence_of(simulated.record(meter, 5, max(1, loop.workers)), NO_PROBES), given_setup)
    assert (verdict.grade, verdict.bottleneck) == VERDICTS[name]


def test_the_closed_form_of_a_loop_without_workers() -> None:
    """The cycle is max(s, b + h) for a step of s ms, a batch of b ms and a host part of h ms: the loader delays the step only
    by what exceeds it."""
    for batch_ms in (5.0, 8.5, 9.5, 14.0):
        loop = Loop(lambda _, batch_ms=batch_ms: batch_ms)  # type: ignore[misc]
        window = measured(played(loop).meter.settled, 5)
        cycle_ms = max(loop.step_ms, batch_ms + sum(loop.host))
        reported = summarize(window)
        assert reported[metrics.STEP_MS] == pytest.approx(cycle_ms, abs=1e-3)
