"""`watch` on the double: a user's own loop, whose times are planted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from loaderlab import metrics, watch
from tests.cuda_double.double import DEVICE, Double
from tests.cuda_double.intervals import Spans, length, overlap, without

MS = 1_000_000
FORWARD, BACKWARD, UPDATE = 3 * MS, 5 * MS, 1 * MS


class OwnLoader:
    """Batches at planted times, as a user's own iterable would deliver them."""

    def __init__(self, double: Double, wait_ms: float, steps: int) -> None:
        self._double, self._wait_ns, self._steps = double, round(wait_ms * MS), steps
        self.waits: Spans = []

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(self._steps):
            began = self._double.clock.now()
            self._double.clock.sleep_until(began + self._wait_ns)
            self.waits.append((began, self._double.clock.now()))
            yield torch.ones(4, 8)


def train_step(
    double: Double, model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor
) -> torch.Tensor:
    double.work(FORWARD, "forward", MS // 10)
    loss: torch.Tensor = model(inputs).sum()
    double.work(BACKWARD, "backward", MS // 10)
    loss.backward()
    optimizer.step()
    double.work(UPDATE, "optimizer", MS // 10)
    optimizer.zero_grad()
    double.timeline.end_step(double.default_stream.queue)
    return loss


def truth(double: Double, waits: Spans, skipped: int) -> float:
    """Percent of the time after ``skipped`` steps in which the device was idle while the host waited."""
    ends = [busy.stop_ns for busy in double.timeline.log if busy.work == "optimizer"]
    window = [(ends[skipped - 1], ends[-1])]
    busy = [(entry.start_ns, entry.stop_ns) for entry in double.timeline.log if entry.work != "copy to device"]
    return 100 * length(overlap(without(window, busy), waits)) / length(window)


@pytest.mark.parametrize("wait_ms", [4.0, 9.5, 20.0])
@pytest.mark.parametrize("delivered", [False, True], ids=["", "delivered"])
def test_a_users_loop(double: Double, wait_ms: float, delivered: bool) -> None:
    model = torch.nn.Linear(8, 2).to("cuda")
    optimizer, loader = torch.optim.SGD(model.parameters(), 0.1), OwnLoader(double, wait_ms, 50)
    with watch("cuda", warmup_steps=5) as meter:
        for inputs in meter.batches(loader):
            moved = inputs.to("cuda")
            if delivered:
                meter.delivered()
            loss = train_step(double, model, optimizer, moved)
            meter.step(num_samples=len(inputs), loss=loss)
    figures = meter.figures()
    assert figures[metrics.STARVED_PCT] == pytest.approx(truth(double, loader.waits, 5), abs=0.1)
    host_ms = 0.3
    assert figures[metrics.STEP_MS] == pytest.approx(max(9.0, wait_ms + host_ms), abs=0.35)
    assert meter.verdict().grade == (
        "fed" if wait_ms + host_ms < 9 else "starved" if wait_ms > 15 else "partly starved"
    )
    assert (metrics.DELIVERY_PCT in figures) == delivered


def test_the_copy_counts_as_starved_once_it_is_marked(double: Double) -> None:
    """A copy of 6 ms on the step's stream, a step of 9 ms and 0.1 ms to launch it; the loader itself needs 1 ms. The host waits
    for the (pageable) inputs, so it does not run ahead."""
    model = torch.nn.Linear(8, 2).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    shares = {}
    for delivered in (True, False):
        with watch(DEVICE, warmup_steps=5) as meter:
            for inputs in meter.batches(OwnLoader(double, 1.0, 40)):
                double.work(6 * MS, "copy")
                if delivered:
                    meter.delivered()
                train_step(double, model, optimizer, inputs.to("cuda"))
                meter.step(num_samples=len(inputs))
        shares[delivered] = meter.figures()[metrics.STARVED_PCT]
    assert shares[True] == pytest.approx(100 * 6 / 15.1, abs=0.1)
    assert shares[False] < 0.1


def test_a_loop_that_ends_early_has_the_times_of_all_its_steps(double: Double) -> None:
    model = torch.nn.Linear(8, 2).to("cuda")
    optimizer, loader = torch.optim.SGD(model.parameters(), 0.1), OwnLoader(double, 12.0, 100)
    with watch("cuda", warmup_steps=2) as meter:
        for step, inputs in enumerate(meter.batches(loader)):
            loss = train_step(double, model, optimizer, inputs.to("cuda"))
            meter.step(num_samples=len(inputs), loss=loss)
            if step == 29:
                break
    figures = meter.figures()
    assert figures[metrics.STEP_MS] == pytest.approx(12.3, abs=0.05)
    assert figures[metrics.STARVED_PCT] == pytest.approx(truth(double, loader.waits, 2), abs=0.1)


def test_an_inner_evaluation_is_not_counted(double: Double) -> None:
    model = torch.nn.Linear(8, 2).to("cuda")
    optimizer, loader = torch.optim.SGD(model.parameters(), 0.1), OwnLoader(double, 12.0, 30)
    with watch("cuda", warmup_steps=2) as meter:
        for step, inputs in enumerate(meter.batches(loader)):
            train_step(double, model, optimizer, inputs.to("cuda"))
            meter.step(num_samples=len(inputs))
            if step % 10 == 9:
                with torch.no_grad():
                    for samples in meter.batches(OwnLoader(double, 40.0, 5)):
                        model(samples.to("cuda"))
                        meter.step(num_samples=len(samples))
    assert meter.figures()[metrics.STEP_MS] == pytest.approx(12.3, abs=0.05)
    assert "15 steps of loops inside this loop are not counted" in meter.verdict().because
