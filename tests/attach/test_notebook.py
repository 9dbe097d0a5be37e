"""What a notebook shows of a watched loop, and that a verdict is otherwise unchanged."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from loaderlab import watch
from loaderlab.attach.watch import Watch
from loaderlab.diagnosis.verdict import Verdict

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def sleepy(batches: int, seconds: float = 0.0) -> Iterator[torch.Tensor]:
    for _ in range(batches):
        time.sleep(seconds)
        yield torch.ones(4, 2)


def html_of(shown: Watch | Verdict) -> str:
    html = shown._repr_html_()
    assert html is not None
    return html


@pytest.fixture
def meter() -> Watch:
    with watch("cpu") as meter:
        for inputs in meter.batches(sleepy(30, 0.002)):
            time.sleep(0.0005)
            meter.step(num_samples=len(inputs))
    return meter


def test_a_verdict_shows_its_loop(meter: Watch) -> None:
    verdict = meter.verdict()
    html = html_of(verdict)
    assert ">starved</span> of data" in html
    assert "wait for the batch" in html
    assert "forward, backward, optimizer" in html
    assert "The first 5 steps are left out as warm-up." in html
    assert "throughput, steady state" in html
    assert "training loop on cpu" in html
    assert html_of(meter) == html


def test_a_verdict_is_otherwise_the_same(meter: Watch) -> None:
    verdict = meter.verdict()
    plain = replace(verdict, html=None)
    assert plain == verdict
    assert hash(plain) == hash(verdict)
    assert (repr(plain), str(plain)) == (repr(verdict), str(verdict))
    assert type(verdict) is Verdict
    assert plain._repr_html_() is None


def test_a_changed_verdict_shows_the_change(meter: Watch) -> None:
    assert "because &lt;it&gt; is" in html_of(replace(meter.verdict(), because="because <it> is"))


def test_a_pickled_verdict_leaves_its_loop_out(meter: Watch) -> None:
    """Ranks may send their verdicts to each other."""
    verdict = meter.verdict()
    stored = pickle.dumps(verdict)
    assert b"LoopRecord" not in stored
    assert pickle.loads(stored) == copy.deepcopy(verdict) == verdict
    assert "<svg" in html_of(verdict)


@pytest.mark.parametrize("device", DEVICES)
def test_a_meter_can_be_shown_at_any_time(device: str) -> None:
    """Showing it must not disturb the loop: in particular, it records no step and ends none."""
    with watch(device, warmup_steps=0) as meter:
        assert "no step was measured" in html_of(meter)
        for index, inputs in enumerate(meter.batches(sleepy(30))):
            if index in (0, 1, 20):
                assert 'class="grade"' in html_of(meter)
            meter.step(num_samples=len(inputs))
            if index in (0, 1, 20):
                assert 'class="grade"' in html_of(meter)
    assert len(meter._meter.steps) == 30
    assert "step 29" in html_of(meter)


def test_showing_a_meter_does_not_measure_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes some hundred steps of work, which would disturb a loop that still runs."""

    def fail(*_args: object, **_options: object) -> float:
        raise AssertionError

    with watch("cpu") as meter:
        for inputs in meter.batches(sleepy(30)):
            meter.step(num_samples=len(inputs))
        monkeypatch.setattr("loaderlab.attach.watch.own_cost_ns", fail)
        html_of(meter)


def test_the_title_is_the_name_of_the_record(store_uri: str) -> None:
    with watch("cpu", record="my <loop>", uri=store_uri) as meter:
        pass
    assert "my &lt;loop&gt; on cpu" in html_of(meter)
