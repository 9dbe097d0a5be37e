"""The probes on the double: their results against the planted times."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loaderlab import metrics
from loaderlab.config import MeasureConfig
from loaderlab.loaders.contract import EpochPlan
from loaderlab.meter.summary import measured, summarize
from loaderlab.probes.inputs import ProbeInputs
from loaderlab.probes.sequence import Probes
from loaderlab.training.state import untouched
from tests.cuda_double.double import DEVICE, Double
from tests.cuda_double.patches import installed
from tests.cuda_double.scenario import BATCH, Loop, PlannedLoader, Played, double_for, play
from tests.cuda_double.test_loaders import arrays
from tests.parts import model_step


def probed(
    loop: Loop, double: Double, played: Played, kind: type[PlannedLoader] = PlannedLoader
) -> tuple[Probes, list[PlannedLoader]]:
    """Runs the probes after a run of the loop; ``kind``: of the loader that is built again for them."""
    rebuilt: list[PlannedLoader] = []

    def rebuild() -> PlannedLoader:
        rebuilt.append(kind(loop, double))
        return rebuilt[-1]

    inputs = ProbeInputs(
        parts=played.parts,
        settings=MeasureConfig(probe_s=0.5, parity=False),
        rebuild=rebuild,
        split=arrays(),
        plan=EpochPlan(loop.steps * BATCH, BATCH, False, False),
        epoch=1,
        accumulate=loop.accumulate,
        rate=1.0,
        busy_ms=1.0,
    )
    probes = Probes()
    probes.run(inputs, lambda *_: None)
    return probes, rebuilt


@pytest.mark.parametrize(
    "loop",
    [
        Loop(lambda _: 12.0, workers=1, steps=60),
        Loop(lambda _: 12.0, workers=3, steps=60, copy_ms=2.0),
        Loop(lambda _: 5.0, workers=1, steps=60, copy_ms=2.0, copying=(False, False, False)),
        Loop(lambda _: 14.0, steps=60, accumulate=3),
    ],
    ids=["one worker", "side stream", "pageable", "no workers, accumulated"],
)
def test_the_probes_measure_the_planted_times(loop: Loop) -> None:
    with installed(double_for(loop)) as double:
        played = play(loop, double)
        results, rebuilt = (probe := probed(loop, double, played))[0].results, probe[1]
    assert results.notes == ()
    assert results.ceiling is not None
    update_ms = loop.phases[2] / loop.accumulate  # an update in every so many steps
    assert results.ceiling.samples_per_s == pytest.approx(1e3 * BATCH / (sum(loop.phases[:2]) + update_ms), rel=0.02)
    assert results.loader_alone is not None
    slower = 1.0 if loop.copying[0] else 2.0
    copy_ms = slower * loop.copy_ms
    made_ms = loop.prepare(0) / max(1, loop.workers)
    # the host waits for each batch's copy before it asks for the next one
    batch_ms = max(made_ms, copy_ms) if loop.workers else made_ms + copy_ms
    assert results.loader_alone.samples_per_s == pytest.approx(1e3 * BATCH / batch_ms, rel=0.02)
    if loop.workers:
        assert results.contended is not None
        # a planted loader costs the step nothing
        assert results.contended.samples_per_s == pytest.approx(results.ceiling.samples_per_s, rel=0.02)
    assert played.loader.closed == 1
    assert [loader.closed for loader in rebuilt] == [1]


def test_headroom_is_what_a_perfect_loader_gains() -> None:
    loop = Loop(lambda _: 13.5, workers=1, steps=60, host=(0.0, 0.0, 0.0))
    with installed(double_for(loop)) as double:
        played = play(loop, double)
        results = probed(loop, double, played)[0].results
    reported = summarize(measured(played.meter.settled, 5))
    assert results.ceiling is not None
    headroom = results.ceiling.samples_per_s / reported[metrics.RATE]
    assert headroom == pytest.approx(13.5 / loop.step_ms, rel=0.01)
    assert reported[metrics.STARVED_PCT] == pytest.approx(100 * (1 - 1 / headroom), abs=0.5)


def test_probes_leave_no_trace_in_the_training() -> None:
    loop = Loop(lambda _: 12.0, workers=1, steps=20)
    with installed(double_for(loop)) as double:
        played = play(loop, double)
        state = model_step(played.parts).state()
        before = {name: value.cpu() for name, value in state["model"].items()}
        updates = state["schedule"]["last_epoch"]
        probed(loop, double, played)
        after = model_step(played.parts).state()
        assert all(torch.equal(value.cpu(), before[name]) for name, value in after["model"].items())
        assert after["schedule"]["last_epoch"] == updates
        assert {value.device for value in after["model"].values()} == {DEVICE}


def test_state_is_copied_to_the_host_and_back() -> None:
    """The device may be full: what is restored must not be kept there."""
    loop = Loop(lambda _: 1.0, steps=6)
    with installed(double_for(loop)) as double:
        parts: Any = play(loop, double).parts
        before = torch.cuda.memory_allocated()
        with untouched(parts.step, parts.device):
            assert torch.cuda.memory_allocated() <= before
            with torch.no_grad():
                next(model_step(parts).model.parameters()).zero_()
        assert next(model_step(parts).model.parameters()).abs().sum().item() > 0
