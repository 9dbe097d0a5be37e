"""The stacks of a profile as a tree in an HTML page, drawn by pyinstrument. The page loads nothing."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator

from loaderlab.lines.stacks import Frame, Recording
from loaderlab.lines.stages import WAITING, in_loader, place_of
from loaderlab.system.extras import require

NAME = "slow_lines.html"
_FONTS = re.compile(r"https://fonts\.googleapis\.com/[^\"]*")  # pyinstrument's script would load them from there
ROOT = "loader\x00\x000"  # pyinstrument needs one frame that all stacks share


def tree(recording: Recording, title: str) -> str:
    """An HTML page with the tree of the time in which the loader worked; each node is a line.

    Raises:
        MissingPackage: pyinstrument is not installed.
    """
    require("the tree of slow lines", "pyinstrument")
    from pyinstrument.renderers.html import HTMLRenderer
    from pyinstrument.session import Session

    records = [*_records(recording)]
    seconds = sum(time for _, time in records)
    session = Session(
        frame_records=records,
        start_time=_time_of(recording),
        duration=seconds,
        min_interval=0.001,
        max_interval=0.001,
        sample_count=len(records),
        start_call_stack=[ROOT],
        target_description=title,
        cpu_time=recording.cpu_ns / 1e9,
        sys_path=sys.path,
        sys_prefixes=Session.current_sys_prefixes(),
    )
    return _FONTS.sub("data:text/css,", str(HTMLRenderer(resample_interval=0).render(session)))


def _time_of(recording: Recording) -> float:
    """When the recording began, in seconds since 1970."""
    begin_ns = min((sample.begin_ns for sample in recording.samples), default=time.perf_counter_ns())
    return time.time() - (time.perf_counter_ns() - begin_ns) / 1e9


def _records(recording: Recording) -> Iterator[tuple[list[str], float]]:
    """The stacks in which the loader worked, as pyinstrument identifies frames, with their seconds."""
    for sample in recording.samples:
        if place_of(sample.stack).stage.kind != WAITING:
            yield [ROOT, *map(_identifier, in_loader(sample.stack))], sample.wall_ns / 1e9


def _identifier(frame: Frame) -> str:
    owner = f"{frame.owner}." if frame.owner else ""
    return f"{owner}{frame.function}\x00{frame.file}\x00{frame.line}\x01l{frame.line}"
