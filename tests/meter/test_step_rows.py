"""The file with a row for each step: it has what the meter measured, also of a process that was killed in the middle of a row."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from loaderlab.device.cpu import Cpu
from loaderlab.device.step_times import DeviceStep
from loaderlab.meter.phases import TOGETHER, StepMeter
from loaderlab.meter.step import Step
from loaderlab.meter.step_rows import (
    DEVICE_NAMES,
    GROWTH,
    ROW,
    StepRows,
    packed,
    read_rows,
    rows_of,
    steps_of,
    unpacked,
)
from tests.meter.test_phases import MS, Clock

NS = st.integers(0, 600_000 * MS)
TIMES_MS = st.floats(0, 1e6, width=32)
DEVICE_STEPS = st.builds(DeviceStep, **dict.fromkeys(DEVICE_NAMES, TIMES_MS))
STEPS = st.builds(
    Step,
    epoch=st.integers(0, 10_000),
    step=st.integers(0, 10_000_000),
    position=st.integers(0, 10_000_000),
    num_samples=st.integers(1, 100_000),
    host=st.tuples(NS, NS, NS, NS, NS),
    other=NS,
    loss=st.floats(-1e6, 1e6, width=32),
    device=st.none() | DEVICE_STEPS,
    drained=st.none() | st.booleans(),
    disturbed=st.booleans(),
    collective_ns=NS,
)


@given(st.lists(STEPS, max_size=5))
def test_property_rows_give_the_steps_back(steps: list[Step]) -> None:
    """Exactly, except for the host's times, which are float32."""
    for step, again in zip(steps, steps_of(rows_of(steps)), strict=True):
        times, expected = [(*each.host, each.other, each.collective_ns) for each in (again, step)]
        assert times == pytest.approx(expected, rel=1e-7, abs=1)
        loss = step.loss if step.device is None else step.device.loss
        assert again == replace(step, host=again.host, other=again.other, collective_ns=again.collective_ns, loss=loss)


def write(rows: StepRows, step: int, device: DeviceStep | None = None) -> None:
    """A step with phases of 1, 2, 3, 4 and 5 ms, 0.5 ms until the next one, and 6 ms in collectives."""
    times = [MS * value for value in (10, 11, 13, 16, 20, 25)] + [25 * MS + MS // 2]
    rows.host(step, 0, step, 8, times, 6 * MS, loss=float(step), drained=None, disturbed=step == 1)
    if device is not None:
        rows.device(step, device)


def expected_step(step: int) -> Step:
    host = (MS, 2 * MS, 3 * MS, 4 * MS, 5 * MS)
    return Step(0, step, step, 8, host, MS // 2, float(step), disturbed=step == 1, collective_ns=6 * MS)


def test_rows_are_in_the_file_at_once(tmp_path: Path) -> None:
    """Nobody closes the file of a process that is killed."""
    rows = StepRows(tmp_path / "rows", pytest.fail)
    for step in range(3):
        write(rows, step)
        assert steps_of(read_rows(rows.path)) == [expected_step(number) for number in range(step + 1)]
    rows.close()
    rows.close()
    assert len(read_rows(rows.path)) == 3


def test_a_file_that_was_cut_has_the_complete_rows(tmp_path: Path) -> None:
    rows = StepRows(tmp_path / "rows", pytest.fail)
    for step in range(4):
        write(rows, step)
    rows.close()
    os.truncate(rows.path, 2 * ROW.itemsize + ROW.itemsize // 2)
    assert steps_of(read_rows(rows.path)) == [expected_step(0), expected_step(1)]
    os.truncate(rows.path, 0)
    assert len(read_rows(rows.path)) == 0


def test_the_file_grows(tmp_path: Path) -> None:
    rows = StepRows(tmp_path / "rows", pytest.fail)
    numbers = [0, 1, GROWTH - 1, GROWTH, 3 * GROWTH]
    for step in numbers:
        write(rows, step)
    assert read_rows(rows.path)["step"].tolist() == numbers
    rows.close()


@pytest.mark.parametrize("full_at", [0, 1])
def test_a_full_disk_ends_the_rows_and_not_the_training(
    full_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file without room on the disk would end the process with SIGBUS."""
    reserve, said = os.posix_fallocate, list[str]()

    def reserve_until_full(file: int, offset: int, size: int) -> None:
        if offset >= full_at * GROWTH * ROW.itemsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(file, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", reserve_until_full)
    rows = StepRows(tmp_path / "rows", said.append)
    for step in (0, GROWTH, 3 * GROWTH):
        write(rows, step, DeviceStep(1.0, 2.0, 3.0, 4.0, 5.0, 0.25, 0.5, 1.5))
    rows.close()
    assert read_rows(rows.path)["step"].tolist() == [0][:full_at]
    (text,) = said
    assert text.startswith(
        f"{'steps from 4,096 on' if full_at else 'steps'} are not written to {rows.path}: No space left"
    )


def test_the_room_of_a_row_is_reserved_before_it_is_written(tmp_path: Path) -> None:
    rows = StepRows(tmp_path / "rows", pytest.fail)
    assert rows.path.stat().st_blocks * 512 >= GROWTH * ROW.itemsize
    rows.close()


def test_steps_without_their_device_times_are_left_out(tmp_path: Path) -> None:
    """Their times on the device arrive some steps later, and the last ones never do if the process is killed."""
    rows = StepRows(tmp_path / "rows", pytest.fail)
    timed = DeviceStep(1.0, 2.0, 3.0, 4.0, 5.0, 0.25, 0.5, 1.5)
    for step in range(4):
        write(rows, step)
    for step in range(2):
        rows.device(step, timed)
    steps = steps_of(read_rows(rows.path))
    assert [step.step for step in steps] == [0, 1]
    assert {step.device for step in steps} == {timed}
    assert (steps[0].loss, steps[0].collective_ms, steps[0].own_ms) == (0.25, 1.5, 15.0 - 1.5)
    write(rows, 1, None)  # the host's part again does not remove the device's
    assert steps_of(read_rows(rows.path))[1].device == timed
    rows.close()


def test_the_file_has_the_same_steps_as_the_meter(tmp_path: Path) -> None:
    clock, rows = Clock(), StepRows(tmp_path / "rows", pytest.fail)
    meter = StepMeter(Cpu(), clock, rows=rows)
    for epoch, count in enumerate((3 * TOGETHER, 2)):
        meter.begin_epoch(epoch)
        for index in range(count):
            meter.next_step()
            assert len(meter.steps) - len(read_rows(rows.path)) < TOGETHER  # the rest is written with the next steps
            for phase in range(4):
                clock.pass_ms(1 + phase + index)
                meter.mark()
            meter.end_step(1 + index, torch.tensor(float(index)))
            clock.pass_ms(0.5)
            if (epoch, index) == (0, 1):
                meter.disturb(1)
        meter.next_step()
        meter.end_epoch()
    written = read_rows(rows.path)
    assert np.array_equal(written, rows_of(meter.steps))
    assert [step.step for step in steps_of(written) if step.disturbed] == [2]
    assert not any(math.isnan(step.loss) for step in steps_of(written))
    rows.close()


@given(st.lists(STEPS, max_size=5))
def test_rows_survive_their_bytes(steps: list[Step]) -> None:
    rows = rows_of(steps)
    copy = unpacked(packed(rows))
    assert copy.tobytes() == rows.tobytes()


def test_bytes_that_are_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole number of rows"):
        unpacked(b"abc")
