"""`loaderlab watch` and the callbacks on the double: a program's DataLoader, whose times are planted."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from loaderlab import metrics
from loaderlab.attach.session import Session
from tests.cuda_double.double import Double
from tests.cuda_double.intervals import Spans
from tests.cuda_double.test_watch import MS, train_step, truth


class Waiting(Dataset[torch.Tensor]):
    """Samples at planted times."""

    def __init__(self, double: Double, wait_ms: float, steps: int) -> None:
        self._double, self._wait_ns, self._steps = double, round(wait_ms * MS), steps
        self.waits: Spans = []

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> torch.Tensor:
        began = self._double.clock.now()
        self._double.clock.sleep_until(began + self._wait_ns)
        self.waits.append((began, self._double.clock.now()))
        return torch.ones(8)


@pytest.mark.parametrize("wait_ms", [2.0, 9.5, 20.0])
def test_the_starved_share_of_a_program_on_cuda(
    double: Double, wait_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of 9 ms on the device, which the host queues in 0.3 ms."""
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", double.clock.now)
    monkeypatch.setattr("loaderlab.attach.session._counters", dict)
    model = torch.nn.Linear(8, 2).to("cuda")
    optimizer, data = torch.optim.SGD(model.parameters(), 0.1), Waiting(double, wait_ms, 60)
    session = Session()
    session.start()
    for inputs in DataLoader(data, batch_size=1):
        train_step(double, model, optimizer, inputs.to("cuda"))
    session.stop()
    reading = session.reading()
    assert reading.program.timed
    assert reading.job.figures[metrics.STARVED_PCT] == pytest.approx(truth(double, data.waits, 6), abs=1.0)
    assert reading.job.figures[metrics.STEP_MS] == pytest.approx(max(9.0, wait_ms + 0.3), abs=0.35)
