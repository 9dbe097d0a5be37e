"""The ranks whose measurement costs something: see `benchmarks.many_ranks`."""

from __future__ import annotations

import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from torch import multiprocessing
from torch.multiprocessing.spawn import spawn

from loaderlab.device.cpu import Cpu
from loaderlab.diagnosis.rank_rows import job_steps_of_rows
from loaderlab.diagnosis.ranks import RankFacts, judge_ranks
from loaderlab.meter.phases import TOGETHER, StepMeter
from loaderlab.meter.step_rows import HOST, ROW, Rows, StepRows, steps_of
from loaderlab.report.rank_charts import bars_by_rank, waits_by_rank
from loaderlab.report.step_files import write_ranks_csv
from loaderlab.runs.rank_results import RankReport
from loaderlab.system.ranks import Ranks
from loaderlab.training.rank_group import RankGroup

STEP_S, BLOCK, BLOCKS = 0.002, TOGETHER, 625  # each block writes its rows once
NUM_STEPS, MANY = 10_000, 1_024
Work = Callable[[RankGroup, Path], Any]


# ---- per step --------------------------------------------------------------------------------------------------


def step_cost(group: RankGroup, folder: Path) -> float:
    """By how many percent the steps of this rank take longer when it is measured as a rank: median over blocks."""
    coin = random.Random(group.broadcast(random.random()))
    with_rows = StepMeter(Cpu(), rows=StepRows(folder / f"rank_{group.ranks.rank}.rows", sys.exit))
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(BLOCKS):
        on = coin.random() < 0.5
        meter = with_rows if on else StepMeter(Cpu())
        meter.begin_epoch(0)
        began = time.perf_counter()
        for _ in range(BLOCK):
            _step(meter, group, on=on)
        meter.next_step()  # writes the last steps
        times[on].append((time.perf_counter() - began) / BLOCK)
        meter.end_epoch()
    return 100 * (median(times[True]) / median(times[False]) - 1)


def _step(meter: StepMeter, group: RankGroup, *, on: bool) -> None:
    meter.next_step()
    meter.mark()
    meter.mark()
    if on:
        meter.collective_ended()
    meter.mark()
    time.sleep(STEP_S)
    if on:
        meter.collective_begins()
    group.largest(0)
    meter.mark()
    meter.end_step(1)


# ---- at the end ------------------------------------------------------------------------------------------------


def end_cost(group: RankGroup, folder: Path) -> dict[str, float]:
    """Seconds and bytes of the end of a job, on rank 0."""
    report = RankReport(group.ranks, _rows(group.ranks.rank), 5, 1, {}, facts=RankFacts())
    group.all_true(True)  # all ranks are ready
    began = time.perf_counter()
    reports = group.gather(report)
    gathered = time.perf_counter()
    if reports is None:
        return {}
    windows = [each.window for each in reports]
    verdict = judge_ranks(windows, len(reports))
    job_steps_of_rows(each.rows for each in reports)
    judged = time.perf_counter()
    ranks = ((each.ranks.rank, steps_of(each.rows)) for each in reports)
    write_ranks_csv(folder / "steps.csv", ranks, 5)
    written = time.perf_counter()
    bars_by_rank(folder / "ranks.png", "many ranks", windows, verdict.straggler)
    waits_by_rank(folder / "waits.png", "many ranks", windows)
    drawn = time.perf_counter()
    return {
        "bytes sent": float(sum(each.rows.nbytes for each in reports[1:])),
        "bytes of steps.csv": float((folder / "steps.csv").stat().st_size),
        "s gather": gathered - began,
        "s judge": judged - gathered,
        "s steps.csv": written - judged,
        "s pictures": drawn - written,
    }


def _rows(rank: int) -> Rows:
    """10,000 steps of about 20 ms, of which rank 1 waits 5 ms."""
    rng = np.random.default_rng(rank)
    rows = np.zeros(NUM_STEPS, ROW)
    rows["flags"] = HOST
    rows["step"] = rows["position"] = np.arange(NUM_STEPS)
    rows["num_samples"] = 32
    for name, mean in (("wait", 5.0 if rank == 1 else 0.2), ("forward", 6.0), ("backward", 10.0), ("optimizer", 2.0)):
        rows[f"host_{name}"] = mean * rng.lognormal(0.0, 0.05, NUM_STEPS)
    rows["host_collective"] = 1.0
    return rows


# ---- processes -------------------------------------------------------------------------------------------------


def run(work: Work, num_ranks: int) -> list[Any]:
    """What the work returns on each rank, in processes of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="many_ranks_") as folder:
        context = multiprocessing.get_context("spawn")
        queue: Any = context.SimpleQueue()
        spawn(_process, (work, num_ranks, port, folder, queue), num_ranks)
        return [queue.get() for _ in range(num_ranks)]


def _process(rank: int, work: Work, num_ranks: int, port: int, folder: str, queue: Any) -> None:
    names = {"RANK": rank, "WORLD_SIZE": num_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    group = RankGroup(Ranks(rank, num_ranks, rank, num_ranks, "node"))
    queue.put(work(group, Path(folder)))
    group.all_true(True)
    group.close()


def print_step(ranks: Sequence[int], repeats: int) -> None:
    """Measures and prints the cost per step."""
    for num_ranks in ranks:
        costs = [fmean(run(step_cost, num_ranks)) for _ in range(repeats)]
        print(f"{num_ranks} ranks, steps of {1e3 * STEP_S:g} ms: {_spread(costs)} % longer (n = {repeats})", flush=True)


def print_end(ranks: Sequence[int], repeats: int) -> None:
    """Measures and prints the cost at the end of a job."""
    by_count: dict[int, dict[str, float]] = {}
    for num_ranks in ranks:
        results = [next(result for result in run(end_cost, num_ranks) if result) for _ in range(repeats)]
        by_count[num_ranks] = {name: median(result[name] for result in results) for name in results[0]}
        line = ", ".join(f"{name} {_spread([result[name] for result in results])}" for name in results[0])
        print(f"{num_ranks} ranks x {NUM_STEPS} steps (n = {repeats}): {line}", flush=True)
    for name in next(iter(by_count.values())):
        slope, intercept = np.polyfit(list(by_count), [values[name] for values in by_count.values()], 1)
        print(f"{MANY} ranks, extrapolated: {name} {intercept + slope * MANY:,.4g}")


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
