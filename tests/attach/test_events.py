"""The rows of a watched program and their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from loaderlab.attach.events import Kind, LoaderFacts, Program, Row, Usage, lines, read
from loaderlab.attach.recorder import Recorder

FACTS = LoaderFacts(0, "torch", "DataLoader", ("train.py:3 <module>",), (8,), ("train.py:3",), 2, 2, True, False, 64)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    program = Program(device="cuda:0", timed=True, cores=4, row_cost_ns=1.5, stopped_at=9)
    rows = [Row(Kind.START, 0, 1, 7, 10, 20), Row(Kind.BATCH, 0, 1, 7, 20, 30, 64, 1, 5, 6)]
    usage = Usage(0, 1, 2.5, 3.5, None)
    path = tmp_path / "rows"
    path.write_text(lines(program) + lines(FACTS) + lines(rows) + lines(usage))
    events = read(path)
    assert (events.program, events.loaders, events.usage) == (program, (FACTS,), [usage])
    assert list(events.rows) == rows
    assert events.rows[-1] == rows[-1]
    assert events.rows[:1] == rows[:1]


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text(lines([Row(0, 0, 1, 7, 10, 20)]) + lines([Row(1, 0, 1, 7, 20, 30)])[:-3])
    assert len(read(path).rows) == 1


def test_a_damaged_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("{nothing\n")
    with pytest.raises(ValueError, match="Expecting"):
        read(path)


class Clock:
    """A device whose events are reached once `passed` is at least their number."""

    def __init__(self) -> None:
        self.events = self.passed = 0

    def now(self) -> int:
        self.events += 1
        return self.events

    def reached(self, event: int) -> bool:
        return event <= self.passed

    def ns(self, start: int, end: int) -> int:
        return 10 * (end - start)


def recorder_of(path: Path, clock: Clock) -> Recorder:
    recorder = Recorder()
    recorder.start(None, path)
    recorder.clock, recorder.step_thread = clock, 1
    return recorder


def test_rows_wait_for_their_device_times_before_they_are_written(tmp_path: Path) -> None:
    path, clock = tmp_path / "rows", Clock()
    recorder = recorder_of(path, clock)
    for number in range(3):
        request = recorder.request(1)
        recorder.add(Kind.BATCH, 0, 1, 1, 100 * number, 100 * number + 50, request=request)
    recorder.stepped(1, 10**10)
    assert list(read(path).rows) == []
    clock.passed = 4
    recorder.add(Kind.BATCH, 0, 1, 1, 300, 350, request=recorder.request(1))
    recorder.stepped(1, 2 * 10**10)
    assert [(row.idle_ns, row.since_ns) for row in read(path).rows] == [(10, -1), (10, 20)]
    recorder.stop()
    rows = read(path).rows
    assert [(row.idle_ns, row.since_ns) for row in rows if row.kind == Kind.BATCH] == [
        (10, -1),
        (10, 20),
        (10, 20),
        (10, 20),
    ]
    assert list(rows) == list(recorder.events().rows)


def test_a_full_disk_does_not_end_the_program() -> None:
    recorder = Recorder()
    recorder.start(None, Path("/dev/full"))
    for number in range(3):
        recorder.stepped(1, 10**10 * (number + 1))
    recorder.stop()
    assert len(recorder.events().rows) == 3


def test_a_forked_child_records_nothing(tmp_path: Path) -> None:
    recorder = recorder_of(tmp_path / "rows", Clock())
    recorder.abandon()
    assert not recorder.on
    recorder.stop()
    assert recorder.num_rows == 0
