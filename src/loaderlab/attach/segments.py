"""The rows of the training thread, cut where it asks a loader for something: at each request, a segment begins. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loaderlab.attach.events import GRADIENTS, UNKNOWN, Kind, Row

REQUESTS = (Kind.START, Kind.BATCH, Kind.END, Kind.WAIT, Kind.TAKE)


@dataclass(frozen=True)
class Segment:
    """From one request to the next.

    Attributes:
        row: the request.
        after: the row that ends the segment; None at the end of the program.
        num_steps: of the optimizer in it.
        last_step_ns: when the last of them ended.
        collectives: of this rank with the others.
    """

    row: Row
    after: Row | None
    num_steps: int
    last_step_ns: int
    collectives: tuple[Row, ...] = ()

    @property
    def wait_ns(self) -> int:
        return self.row.end_ns - self.row.begin_ns

    @property
    def end_ns(self) -> int:
        if self.after is not None:
            return self.after.begin_ns
        return max(self.row.end_ns, self.last_step_ns)

    @property
    def tail_ns(self) -> int:
        """From the last step of the optimizer to the end."""
        return self.end_ns - self.last_step_ns

    @property
    def device_ns(self) -> int:
        """Its length on the device's clock; UNKNOWN without."""
        return UNKNOWN if self.after is None else self.after.since_ns

    @property
    def collective_ns(self) -> int:
        """Time in collectives."""
        return sum(row.end_ns - row.begin_ns for row in self.collectives)

    @property
    def collective_device_ns(self) -> int:
        """The same on the device's clock; UNKNOWN if it is not known of each."""
        times = [row.idle_ns for row in self.collectives]
        return UNKNOWN if UNKNOWN in times else sum(times)

    @property
    def exchanges(self) -> bool:
        """Whether gradients were exchanged in it."""
        return any(row.flags & GRADIENTS for row in self.collectives)


def segments(rows: Sequence[Row], thread: int | None) -> Iterator[Segment]:
    """The segments of a thread."""
    row: Row | None = None
    num_steps = last_step_ns = 0
    collectives: list[Row] = []
    for after in rows:
        if after.thread != thread:
            continue
        if after.kind in REQUESTS:
            if row is not None:
                yield Segment(row, after, num_steps, last_step_ns, tuple(collectives))
            row, num_steps, collectives = after, 0, []
        elif after.kind == Kind.COLLECTIVE:
            collectives.append(after)
        elif after.kind == Kind.OPTIMIZER:
            num_steps += 1
            last_step_ns = after.end_ns
    if row is not None:
        yield Segment(row, None, num_steps, last_step_ns, tuple(collectives))
