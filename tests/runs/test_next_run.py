"""The command that a run prints as the next one to type."""

from __future__ import annotations

import pytest

from loaderlab.diagnosis.evidence import Advice
from loaderlab.runs.next_run import next_command

WORKERS = Advice("more workers", "loader.num_workers", 4, 1.5)
RESIDENT = Advice("data this small can stay on the device", "loader", "resident", 2.0)
CORES = Advice("give the job more cores", gain_x=1.2)


@pytest.mark.parametrize(
    ("overrides", "advice", "command"),
    [
        ([], [WORKERS], "train loader.num_workers=4"),
        (["loader.num_workers=0", "epochs=2"], [WORKERS, RESIDENT], "train epochs=2 loader.num_workers=4"),
        (["loader=native", "loader.num_workers=0", "seed=1"], [RESIDENT], "train seed=1 loader=resident"),
        (["+loader.num_workers=0"], [CORES, WORKERS], "train loader.num_workers=4"),
        (["data.root=/my photos"], [WORKERS], "train 'data.root=/my photos' loader.num_workers=4"),
        (["loader_x=1"], [RESIDENT], "train loader_x=1 loader=resident"),
        (["epochs=2"], [CORES], ""),
        ([], [], ""),
    ],
)
def test_next_command(overrides: list[str], advice: list[Advice], command: str) -> None:
    assert next_command("train", overrides, advice) == command
