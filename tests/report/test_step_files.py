"""The file of steps: with one rank as before, with several ranks with a column for the rank."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loaderlab.report.step_charts import read_steps
from loaderlab.report.step_files import to_csv, write_ranks_csv
from tests.diagnosis.planted_ranks import BATCH, steps_of

STARVED = np.array([[1.0, 4.0, 0.0], [3.0, 0.0, 0.0]])
COMPUTE = np.array([[10.0, 10.0, 10.0], [9.0, 15.0, 11.0]])


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("emulated", [False, True])
def test_the_columns_of_each_rank_are_those_of_one_rank(
    tmp_path: Path, *, on_device: bool, coarse: bool, emulated: bool
) -> None:
    ranks = steps_of(STARVED, COMPUTE, on_device=on_device)
    path = tmp_path / "steps.csv"
    write_ranks_csv(path, enumerate(ranks), 1, coarse=coarse, emulated=emulated)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert next(iter(rows[0])) == "rank"
    for rank, steps in enumerate(ranks):
        alone = csv.DictReader(io.StringIO(to_csv(steps, 1, coarse=coarse, emulated=emulated)))
        for row, single in zip([row for row in rows if row["rank"] == str(rank)], alone, strict=True):
            collective_ms = 0.0 if on_device else float(row["collective_ms"])
            assert row == {"rank": str(rank), **single} | {
                "collective_ms": row["collective_ms"],
                "device_collective_ms": row["device_collective_ms"],
            }
            if on_device:
                collective_ms = float(row["device_collective_ms"])
            assert collective_ms == pytest.approx(steps[int(row["step"])].collective_ms)
    assert [path.name for path in tmp_path.iterdir()] == ["steps.csv"]


def test_the_file_of_one_rank() -> None:
    (step, *_), _ = steps_of(STARVED, COMPUTE)
    assert to_csv([replace(step, loss=0.5)], 0) == (
        "epoch,step,num_samples,measured,loss,host_wait_ms,host_transfer_ms,host_forward_ms,host_backward_ms,"
        "host_optimizer_ms,host_other_ms,device_gap_ms,device_delivery_ms,device_forward_ms,device_backward_ms,"
        "device_optimizer_ms,device_trailing_ms\n"
        "0,0,32,0,0.5,1.0000,0.0000,5.0000,8.0000,0.0000,0.0000,,,,,,\n"
    )


@pytest.mark.parametrize("on_device", [False, True])
def test_pictures_show_the_slowest_rank_of_each_step(tmp_path: Path, *, on_device: bool) -> None:
    ranks = steps_of(STARVED, COMPUTE, on_device=on_device)
    ranks = [[replace(step, loss=float(rank)) for step in own] for rank, own in enumerate(ranks)]
    ranks[1] = ranks[1][:2]  # it died
    write_ranks_csv(tmp_path / "steps.csv", enumerate(ranks), 0)
    series = read_steps((tmp_path / "steps.csv").read_text())
    assert series is not None
    if on_device:  # the host's wait, which is 5 ms longer in these steps
        assert series.wait_ms.tolist() == [8.0, 5.0, 5.0]
    else:
        assert series.wait_ms.tolist() == [3.0, 0.0, 0.0]
        assert series.step_ms == pytest.approx([14.0, 17.0, 13.0])
    assert series.samples.tolist() == [2 * BATCH, 4 * BATCH, 5 * BATCH]
    assert series.loss.tolist() == [0.5, 0.5, 0.0]
