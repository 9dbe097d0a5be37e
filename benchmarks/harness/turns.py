"""Arms that are measured in turns: each has a process group of its own, which is stopped while it is not its turn.

Stopped (SIGSTOP) workers, threads and queues take no processor from the others, and keep what they have: no turn pays for a
start. A turn throws away what had been made ahead, then counts batches for a fixed time, up to a whole number of bursts:
workers that build whole batches deliver as many at once as there are workers. The order of the arms rotates from round to
round; the parent sleeps in a pipe meanwhile.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from loaderlab.compare import stats


@dataclass(frozen=True)
class Served:
    """What an arm gives without an end: the number of samples of each next batch.

    Attributes:
        ahead: batches that are made before they are asked for.
        parallel: batches that are in the making at the same time.
    """

    batches: Iterator[int]
    ahead: int
    parallel: int = 1


@dataclass(frozen=True)
class Arm:
    """``build(*args)``, called in the arm's own process, gives what is measured; ``what`` is for the reader."""

    name: str
    build: Callable[..., Served]
    args: tuple[Any, ...]
    what: str = ""


@dataclass(frozen=True)
class Turn:
    """``cpu_ms``: processor time that the arm's processes took for a sample. Other programs slow it down too, by far less
    than the rate."""

    samples_per_s: float
    cpu_ms: float


Turns = dict[str, list[Turn]]  # of each arm, round by round


def take_turns(arms: Sequence[Arm], rounds: int, seconds: float) -> Turns:
    """Every arm's turn of this length in every round, once all of them have been built."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the arms end too
    context = multiprocessing.get_context("spawn")
    links: dict[str, tuple[int, Connection]] = {}
    turns: Turns = {arm.name: [] for arm in arms}
    try:
        for arm in arms:
            link, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(arm, theirs))
            process.start()
            theirs.close()  # an arm that dies is then an EOFError here
            assert process.pid is not None
            links[arm.name] = process.pid, link
            link.recv()
            os.killpg(process.pid, signal.SIGSTOP)
        for number in range(rounds):
            for place in range(len(arms)):
                name = arms[(number + place) % len(arms)].name
                group, link = links[name]
                os.killpg(group, signal.SIGCONT)
                link.send(seconds)
                turns[name].append(link.recv())
                os.killpg(group, signal.SIGSTOP)
    finally:
        for group, _ in links.values():
            os.killpg(group, signal.SIGKILL)
    return turns


def _serve(arm: Arm, link: Connection) -> None:
    os.setpgrp()
    torch.set_num_threads(1)  # the cores belong to the arm's workers
    served = arm.build(*arm.args)
    next(served.batches)
    link.send("ready")
    while True:
        link.send(_turn(served, link.recv()))


def _turn(served: Served, seconds: float) -> Turn:
    for _ in range(served.ahead + served.parallel):
        next(served.batches)
    samples = count = 0
    began_cpu_s, began = _cpu_s(), time.perf_counter()
    while True:
        samples += next(served.batches)
        count += 1
        took = time.perf_counter() - began
        if took >= seconds and count % served.parallel == 0:
            return Turn(samples / took, 1e3 * (_cpu_s() - began_cpu_s) / samples)


def _cpu_s() -> float:
    """Processor time of this process and of those that it started."""
    own = psutil.Process()
    spent = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(times.user + times.system for times in spent)


def paired(turns: Turns, arm: str, other: str, confidence: float = stats.CONFIDENCE) -> stats.Ratio:
    """The ratio of two arms' rates, paired by round."""
    pairs = zip(turns[arm], turns[other], strict=True)
    return stats.ratio([(one.samples_per_s, two.samples_per_s) for one, two in pairs], confidence)


def median_rate(turns: Sequence[Turn]) -> float:
    return statistics.median(turn.samples_per_s for turn in turns)


def shown(ratio: stats.Ratio) -> str:
    interval = "no interval" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
    return f"{ratio.value:.3f} ({interval}, n = {ratio.num_pairs})"


def table(turns: Turns, against: str, limit: str | None = None) -> str:
    """Rows of Markdown: median and range of the rate, the ratio to ``against``, the share of ``limit``'s median."""
    rows = [
        f"| arm | samples/s: median (range) | × {against} (95 %) | CPU ms a sample |"
        + (f" of {limit} |" if limit else ""),
        "|---|---|---|---|" + ("---|" if limit else ""),
    ]
    for name, taken in turns.items():
        rates = [turn.samples_per_s for turn in taken]
        row = f"| {name} | {median_rate(taken):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | "
        row += "1 |" if name == against else f"{shown(paired(turns, name, against))} |"
        row += f" {statistics.median(turn.cpu_ms for turn in taken):.3g} |"
        rows.append(row + (f" {100 * median_rate(taken) / median_rate(turns[limit]):.0f} % |" if limit else ""))
    return "\n".join(rows)
