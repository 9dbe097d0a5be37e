"""A file with a row for each step, which a rank writes while it trains: if its process is killed, the steps so far are not lost.

The file is mapped into memory: a row costs no system call, and the kernel keeps what a killed process has written. Its room on the
disk is reserved first, since the kernel kills a process that writes to a mapped file on a full disk. Times are float32 milliseconds,
with a relative error of at most 6e-8.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaderlab.device.step_times import DeviceStep
from loaderlab.meter.step import PHASES, Step

HOST, DEVICE, DRAINED, UNDRAINED, DISTURBED = 1, 2, 4, 8, 16  # flags
HOST_FORMAT, DEVICE_FORMAT = struct.Struct("<5i8f"), struct.Struct("<8f")
DEVICE_NAMES = ("gap", "delivery", "forward", "backward", "optimizer", "loss", "trailing", "collective")
ROW = np.dtype(
    [
        *((name, "<i4") for name in ("flags", "step", "epoch", "position", "num_samples")),
        *((f"host_{name}", "<f4") for name in (*PHASES, "other", "collective")),
        ("loss", "<f4"),
        *((f"device_{name}", "<f4") for name in DEVICE_NAMES),
    ]
)
NAMES = tuple(ROW.fields or ())
ASCENDING = ("step", "position")  # packed as differences
GROWTH = 4096  # rows by which the file grows

Rows = npt.NDArray[np.void]


class StepRows:
    """Writes the rows of one process, until the disk is full.

    Args:
        path: of the file, which is created.
        warn: gets one sentence if there is no room for more rows.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path, self._warn = path, warn
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._num_rows, self._is_full = 0, False
        self._map: mmap.mmap | None = None
        self._grow()

    def host(
        self,
        step: int,
        epoch: int,
        position: int,
        num_samples: int,
        times_ns: Sequence[int],
        collective_ns: int,
        *,
        loss: float,
        drained: bool | None,
        disturbed: bool,
    ) -> None:
        """Writes what the host knows of a step, again if it is called again.

        Args:
            times_ns: the start of the step, the ends of its five phases, and the start of the next step, which may be missing.
        """
        flags = HOST | (0 if drained is None else DRAINED if drained else UNDRAINED) | (DISTURBED if disturbed else 0)
        begin, wait, transfer, forward, backward, optimizer = times_ns[:6]
        other = times_ns[6] - optimizer if len(times_ns) > 6 else 0
        at = self._at(step)
        if at is None:
            return
        assert self._map is not None
        flags |= self._map[at] & DEVICE
        HOST_FORMAT.pack_into(
            self._map,
            at,
            flags,
            step,
            epoch,
            position,
            num_samples,
            (wait - begin) / 1e6,
            (transfer - wait) / 1e6,
            (forward - transfer) / 1e6,
            (backward - forward) / 1e6,
            (optimizer - backward) / 1e6,
            other / 1e6,
            collective_ns / 1e6,
            loss,
        )

    def device(self, step: int, timed: DeviceStep) -> None:
        """Adds the times of a step on the device's clock."""
        at = self._at(step)
        if at is None:
            return
        assert self._map is not None
        values = (timed.gap, timed.delivery, timed.forward, timed.backward, timed.optimizer, timed.loss)
        DEVICE_FORMAT.pack_into(self._map, at + HOST_FORMAT.size, *values, timed.trailing, timed.collective)
        self._map[at] |= DEVICE

    def close(self) -> None:
        """Closes the file; the rows stay."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _at(self, step: int) -> int | None:
        """Where the row of a step is in the file; None if the disk has no room for it."""
        while step >= self._num_rows and not self._is_full:
            self._grow()
        return step * ROW.itemsize if step < self._num_rows else None

    def _grow(self) -> None:
        """Makes room for more rows: zeros, whose flags say that they are not written."""
        try:
            os.posix_fallocate(self._file, self._num_rows * ROW.itemsize, GROWTH * ROW.itemsize)
        except OSError as error:
            self._is_full = True
            steps = f"steps from {self._num_rows:,} on" if self._num_rows else "steps"
            self._warn(
                f"{steps} are not written to {self.path}: {error.strerror}. They are lost if this process is killed"
            )
            return
        self._num_rows += GROWTH
        if self._map is not None:
            self._map.close()
        self._map = mmap.mmap(self._file, self._num_rows * ROW.itemsize)


def read_rows(path: Path) -> Rows:
    """The rows of the steps that were written, in order; of a device with its own clock only those with its times."""
    rows: Rows = np.fromfile(path, ROW)
    rows = rows[(rows["flags"] & HOST) != 0]
    timed = (rows["flags"] & DEVICE) != 0
    return rows[timed] if timed.any() else rows


def rows_of(steps: Sequence[Step]) -> Rows:
    """The same rows from steps in memory."""
    values = []
    for step in steps:
        drained = 0 if step.drained is None else DRAINED if step.drained else UNDRAINED
        flags = HOST | drained | (DISTURBED if step.disturbed else 0) | (0 if step.device is None else DEVICE)
        host = [value / 1e6 for value in (*step.host, step.other, step.collective_ns)]
        device = [0.0] * len(DEVICE_NAMES)
        if step.device is not None:
            device = [getattr(step.device, name) for name in DEVICE_NAMES]
        values.append((flags, step.step, step.epoch, step.position, step.num_samples, *host, step.loss, *device))
    return np.array(values, ROW)


def steps_of(rows: Rows) -> list[Step]:
    """The steps of these rows."""
    return [_step(row) for row in rows]


def _step(row: np.void) -> Step:
    flags = int(row["flags"])
    host = [round(float(row[f"host_{name}"]) * 1e6) for name in PHASES]
    device = None
    if flags & DEVICE:
        device = DeviceStep(**{name: float(row[f"device_{name}"]) for name in DEVICE_NAMES})
    return Step(
        epoch=int(row["epoch"]),
        step=int(row["step"]),
        position=int(row["position"]),
        num_samples=int(row["num_samples"]),
        host=(host[0], host[1], host[2], host[3], host[4]),
        other=round(float(row["host_other"]) * 1e6),
        loss=float(row["loss"]) if device is None else device.loss,
        device=device,
        drained=True if flags & DRAINED else False if flags & UNDRAINED else None,
        disturbed=bool(flags & DISTURBED),
        collective_ns=round(float(row["host_collective"]) * 1e6),
    )


def packed(rows: Rows) -> bytes:
    """The rows as bytes, column by column, so that columns without values take no room once they are compressed."""
    columns = [np.diff(rows[name], prepend=0).astype("<i4") if name in ASCENDING else rows[name] for name in NAMES]
    return b"".join(column.tobytes() for column in columns)


def unpacked(values: bytes) -> Rows:
    """The rows from the bytes that `packed` made.

    Raises:
        ValueError: they are not such bytes.
    """
    count, remainder = divmod(len(values), ROW.itemsize)
    if remainder:
        raise ValueError(f"{len(values)} bytes are no whole number of rows of {ROW.itemsize} bytes")
    rows, at = np.zeros(count, ROW), 0
    for name in NAMES:
        column = np.frombuffer(values, ROW[name], count, at)
        rows[name] = np.cumsum(column) if name in ASCENDING else column
        at += column.nbytes
    return rows
