"""What the benchmark of measuring by rank times."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness import rank_costs
from loaderlab.meter.step_rows import StepRows
from loaderlab.system.ranks import Ranks

READ, ROW = "the clock is read", "a row is written"


class OneRank:
    """A group without other ranks."""

    ranks = Ranks(0, 1)

    def broadcast(self, value: float) -> float:
        return value

    def largest(self, value: int) -> int:
        return value


def test_all_rows_are_written_while_the_steps_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    write = StepRows.host

    def read_clock() -> float:
        events.append(READ)
        return time.perf_counter()

    def write_row(*arguments: Any, **named: Any) -> None:
        events.append(ROW)
        write(*arguments, **named)

    monkeypatch.setattr(rank_costs, "BLOCKS", 20)
    monkeypatch.setattr(rank_costs, "time", SimpleNamespace(perf_counter=read_clock, sleep=lambda _: None))
    monkeypatch.setattr(StepRows, "host", write_row)
    group: Any = OneRank()
    rank_costs.step_cost(group, tmp_path)
    reads = [index for index, event in enumerate(events) if event == READ]
    timed = [end - begin - 1 for begin, end in zip(reads[::2], reads[1::2], strict=True)]
    assert set(timed) == {0, rank_costs.BLOCK}  # blocks without a file, and with one
    assert sum(timed) == events.count(ROW)
