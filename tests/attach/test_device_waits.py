"""On a device with a clock of its own, a wait counts only while the device has nothing to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from loaderlab.attach.reading import Reading
from loaderlab.attach.recorder import recorder
from loaderlab.attach.session import Session

MS = 1_000_000


class Device:
    """A device that works off a queue, on the same simulated clock as the host; the clock interface of the recorder."""

    def __init__(self) -> None:
        self.host = MS
        self.free_at = 0

    def __call__(self) -> int:
        return self.host

    def pass_ms(self, ms: float) -> None:
        self.host += round(ms * MS)

    def queue(self, ms: float) -> None:
        self.free_at = max(self.host, self.free_at) + round(ms * MS)

    def now(self) -> int:
        return max(self.host, self.free_at)

    def reached(self, event: int) -> bool:
        return event <= self.host

    def ns(self, start: int, end: int) -> int:
        return end - start


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    device = Device()
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", device)
    monkeypatch.setattr("loaderlab.attach.session._counters", dict)
    monkeypatch.setattr("loaderlab.attach.device_clock.clock_of", lambda _: device)
    yield device
    recorder.on = False


class Samples(Dataset[torch.Tensor]):
    def __init__(self, device: Device, wait_ms: float, count: int = 60) -> None:
        self.device, self.wait_ms, self.count = device, wait_ms, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        self.device.pass_ms(self.wait_ms)
        return torch.zeros(2)


def train(device: Device, wait_ms: float, work_ms: float, *, accumulate: int = 1, evaluate: bool = False) -> Reading:
    session = Session()
    session.start()
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for index, batch in enumerate(DataLoader(Samples(device, wait_ms, 60 * accumulate))):
        model(batch).sum().backward()
        device.pass_ms(1)  # the host queues the work
        device.queue(work_ms)
        if index % accumulate == accumulate - 1:
            optimizer.step()
        if evaluate and index % 10 == 9:
            with torch.no_grad():
                for _ in DataLoader(Samples(device, 50, 5)):
                    device.pass_ms(1)
                    device.queue(20)
    session.stop()
    return session.reading()


def starved(reading: Reading) -> float:
    return reading.job.figures["starvation/starved_pct"]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_wait_under_work_that_is_queued_costs_nothing(device: Device, accumulate: int) -> None:
    """The host waits 10 of 11 ms while the device has 30 ms of work per batch."""
    reading = train(device, 10, 30, accumulate=accumulate)
    assert starved(reading) == pytest.approx(0, abs=0.01)
    assert reading.job.verdict.grade == "fed"
    assert reading.job.figures["time/step_ms"] == pytest.approx(30 * accumulate, rel=0.02)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_rest_of_a_long_wait_is_starvation(device: Device, accumulate: int) -> None:
    """Each batch takes 40 ms and is queued in 1 ms, the device works 30 ms: it is idle for 11 of 41 ms, 10 of which it waits for data."""
    reading = train(device, 40, 30, accumulate=accumulate)
    assert starved(reading) == pytest.approx(100 * 10 / 41, abs=0.5)
    assert reading.job.figures["time/step_ms"] == pytest.approx(41 * accumulate, rel=0.02)


def test_an_evaluation_is_left_out_on_the_device_too(device: Device) -> None:
    """Its own 250 ms do not count. The first wait after it is longer, because the device has no work left."""
    reading = train(device, 40, 30, evaluate=True)
    assert 100 * 10 / 41 < starved(reading) < 100 * (9 * 10 + 40) / (9 * 41 + 71)
    assert reading.job.figures["time/step_ms"] < 45


def test_a_device_that_fails_ends_only_its_own_times(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(start: Any, end: Any) -> int:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(device, "ns", fail)
    reading = train(device, 40, 30)
    assert reading.job.verdict.grade == "inconclusive"


def test_a_device_whose_clock_cannot_be_read_is_not_judged(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.device.resolve.known_device", lambda where: None)
    assert "the program trains on cpu, whose clock cannot be read" in train(device, 40, 30).job.verdict.because
