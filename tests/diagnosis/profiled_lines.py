"""Hand-made profiles of a loader's lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loaderlab.diagnosis.line_figures import LineRecord
from loaderlab.lines.stacks import Frame, Recording, Sample

FETCHES = Frame("/venv/torch/utils/data/_utils/fetch.py", 50, "fetch")
NS = 10**9


@dataclass(frozen=True)
class Spent:
    """How a line spends its time.

    Attributes:
        seconds: in it.
        owner: the class of the transform that contains it; empty if it is the dataset's.
        others: number of other threads that compute in it.
    """

    seconds: float
    owner: str = ""
    computing: float = 1.0
    others: float = 0.0


def line_record(
    folder: Path, spent: Mapping[str, float | Spent], *, num_workers: int = 2, waited: bool = True
) -> LineRecord:
    """The profile of a dataset with these lines of source code, each with its seconds in a hundred samples.

    Args:
        folder: for the source file, ``data.py``.
        waited: the training waited all the time; otherwise never.
    """
    path = folder / "data.py"
    path.write_text("\n".join(spent) + "\n", encoding="utf-8")
    samples, now = [], 0
    for number, value in enumerate(spent.values(), start=1):
        line = value if isinstance(value, Spent) else Spent(value)
        frame = Frame(str(path), number, "__call__" if line.owner else "__getitem__", line.owner)
        for _ in range(100):
            end = now + int(line.seconds * NS / 100)
            samples.append(Sample(now, end, line.computing, line.others, (FETCHES, frame)))
            now = end
    return LineRecord(Recording(tuple(samples), cost_ns=now // 50), [(0, now)] if waited else [], num_workers)
