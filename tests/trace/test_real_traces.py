"""Real GPU traces of four GPUs: the trace reader and the meter's arithmetic, compared with the sums over single microseconds.

The sums share no code with loaderlab. ``tests/trace/real_traces.py`` describes the data.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest

from loaderlab import metrics
from loaderlab.config import TraceConfig
from loaderlab.device.step_times import DeviceStep
from loaderlab.meter.step import Step
from loaderlab.meter.summary import summarize
from loaderlab.trace.analysis import Reading, Share, analyse
from loaderlab.trace.collect import collect
from tests.trace.real_traces import CUTS, Cut, Work

Moments = npt.NDArray[np.bool_]  # one for each microsecond
LIMIT = 0.1  # points


@pytest.fixture(params=CUTS, ids=lambda cut: cut.name)
def cut(request: pytest.FixtureRequest) -> Cut:
    assert isinstance(request.param, Cut)
    return request.param


def moments(spans: Iterable[tuple[int, int]], window: tuple[int, int]) -> Moments:
    """The microseconds of the window that lie in a span."""
    begin, end = window
    lies_in = np.zeros(end - begin, dtype=np.bool_)
    for start, stop in spans:
        lies_in[max(0, start - begin) : max(0, stop - begin)] = True
    return lies_in


def running(work: Iterable[Work], window: tuple[int, int]) -> Moments:
    return moments(((one.start, one.end) for one in work), window)


def percent(some: Moments) -> float:
    return 100 * float(some.mean())


# ---- the trace reader ----------------------------------------------------------------------------------------------


def read(cut: Cut, batches: slice = slice(None)) -> Reading:
    numbers = {f"ProfilerStep#{number}" for number in range(len(cut.steps))[batches]}
    events = [one for one in cut.events() if one["name"] in numbers or not one["name"].startswith("ProfilerStep")]
    return analyse(collect(events, "auto"), TraceConfig(trace="trace.json"))


def check(share: Share, cut: Cut, window: tuple[int, int], copy_pct: float | None = None) -> None:
    """Compares the reader's shares of the time in the window with sums over its microseconds."""
    busy, waiting = running(cut.work, window), moments(cut.waits, window)
    computing = running([one for one in cut.work if one.kind != "c"], window)
    assert share.step_ms is not None
    assert share.step_ms * share.num_steps == pytest.approx((window[1] - window[0]) / 1e3)
    assert share.wait_pct == pytest.approx(percent(waiting))
    assert share.idle_pct == pytest.approx(percent(~busy))
    assert share.starved_pct == pytest.approx(percent(~busy & waiting))
    if copy_pct is not None:
        assert copy_pct == pytest.approx(percent(busy & ~computing))


def test_the_reader_agrees_with_a_sum_over_microseconds(cut: Cut) -> None:
    reading = read(cut)
    check(reading.overall, cut, (cut.steps[0][0], cut.steps[-1][6]), reading.copy_pct)
    for step, (_, share) in zip(cut.steps, reading.steps, strict=True):
        check(share, cut, (step[0], step[6]))
    assert len(reading.devices) == 1


GRADES = {
    "h100_inference": "starved",
    "mi300x_inference": "starved",
    "a100_recommender": "inconclusive",  # two steps are not enough
    "v100_recommender": "inconclusive",
}


def test_the_verdicts_of_the_cuts(cut: Cut) -> None:
    assert read(cut).verdict.grade == GRADES[cut.name]


# ---- the meter's arithmetic ----------------------------------------------------------------------------------------


def reached(cut: Cut, recorded: int) -> int:
    """The time at which a CUDA event is reached that the host records at ``recorded`` on the step's stream."""
    before = [one.end for one in cut.work if one.stream == cut.stream and one.launch < recorded]
    return max([recorded, *before])


def metered(cut: Cut, last: int) -> list[Step]:
    """What the meter records of these steps.

    Args:
        last: index in `Cut.steps` of the moment at which the step's last mark is made.
    """
    steps = []
    before = reached(cut, cut.steps[0][0])
    for number, step in enumerate(cut.steps):
        host = [*step[:5], step[last]]
        marks = [before, *(reached(cut, moment) for moment in host[1:])]
        trailing = (reached(cut, step[0]) - before) / 1e3
        before = marks[-1]
        gap, delivery, forward, backward, optimizer = (np.diff(marks) / 1e3).tolist()
        wait, transfer, first, second, third = (int(length) * 1000 for length in np.diff(host))
        times = DeviceStep(gap, delivery, forward, backward, optimizer, float("nan"), trailing)
        other = (step[6] - step[last]) * 1000
        steps.append(Step(0, number, number, 1, (wait, transfer, first, second, third), other, device=times))
    return steps


def delivering(cut: Cut, window: tuple[int, int]) -> Moments:
    """The moments after a batch was received at which the step's stream has no earlier work left, while the batch is copied:
    the host queues its copies, or they are in the step's stream."""
    total = moments([], window)
    for load, batch, transfer, *_ in cut.steps:
        own = [one for one in cut.work if one.stream == cut.stream]
        begun = max([batch, *(one.end for one in own if one.launch < batch)])
        ended = max([transfer, *(one.end for one in own if batch <= one.launch < transfer)])
        total |= moments([(begun, ended)], window) & ~running([one for one in own if one.launch < load], window)
    return total


MARKS = [
    pytest.param(cut, last, id=f"{cut.name}-{name}") for cut in CUTS for name, last in (("optimizer", 5), ("end", 6))
]


@pytest.mark.parametrize(("cut", "last"), MARKS)
def test_the_meter_agrees_with_the_time_that_is_idle_and_waiting(cut: Cut, last: int) -> None:
    """The last mark of a step is made after the optimizer, as in `train`, or where the step ends, as in `watch`."""
    steps = metered(cut, last)
    figures = summarize(steps)
    window = reached(cut, cut.steps[0][0]), reached(cut, cut.steps[-1][last])
    idle = ~running(cut.work, window)
    starved = percent(idle & moments(cut.waits, window))
    delivery = percent(delivering(cut, window))
    assert figures[metrics.DELIVERY_PCT] == pytest.approx(delivery, abs=LIMIT)
    assert figures[metrics.STARVED_PCT] - figures[metrics.DELIVERY_PCT] == pytest.approx(starved, abs=LIMIT)
    assert figures[metrics.STEP_MS] * len(steps) == pytest.approx((window[1] - window[0]) / 1e3)
    waited = sum(batch - load for load, batch in cut.waits) / (cut.steps[-1][6] - cut.steps[0][0])
    assert figures[metrics.WAIT_PCT] == pytest.approx(100 * waited)
