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

import torch

from loaderlab import stats


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


def samples_per_s(arms: Sequence[Arm], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Of each arm the rate in each round."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the arms end too
    context = multiprocessing.get_context("spawn")
    links: dict[str, tuple[int, Connection]] = {}
    rates: dict[str, list[float]] = {arm.name: [] for arm in arms}
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
        for turn in range(rounds):
            for place in range(len(arms)):
                name = arms[(turn + place) % len(arms)].name
                group, link = links[name]
                os.killpg(group, signal.SIGCONT)
                link.send(seconds)
                rates[name].append(link.recv())
                os.killpg(group, signal.SIGSTOP)
    finally:
        for group, _ in links.values():
            os.killpg(group, signal.SIGKILL)
    return rates


def _serve(arm: Arm, link: Connection) -> None:
    os.setpgrp()
    torch.set_num_threads(1)  # the cores belong to the arm's workers
    served = arm.build(*arm.args)
    next(served.batches)
    link.send("ready")
    while True:
        link.send(_turn(served, link.recv()))


def _turn(served: Served, seconds: float) -> float:
    for _ in range(served.ahead + served.parallel):
        next(served.batches)
    samples = count = 0
    began = time.perf_counter()
    while True:
        samples += next(served.batches)
        count += 1
        took = time.perf_counter() - began
        if took >= seconds and count % served.parallel == 0:
            return samples / took


def paired(rates: dict[str, list[float]], arm: str, other: str, confidence: float = stats.CONFIDENCE) -> stats.Ratio:
    """The ratio of two arms, paired by round."""
    return stats.ratio(list(zip(rates[arm], rates[other], strict=True)), confidence)


def shown(ratio: stats.Ratio) -> str:
    interval = "no interval" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
    return f"{ratio.value:.3f} ({interval}, n = {ratio.num_pairs})"


def table(rates: dict[str, list[float]], against: str, limit: str | None = None) -> str:
    """Rows of Markdown: median and range of the rate, the ratio to ``against``, the share of ``limit``'s median."""
    rounds = len(rates[against])
    rows = [
        f"| arm | samples/s: median (range), n = {rounds} | × {against} (95 %) |" + (f" of {limit} |" if limit else ""),
        "|---|---|---|" + ("---|" if limit else ""),
    ]
    for name, values in rates.items():
        middle = statistics.median(values)
        row = f"| {name} | {middle:,.0f} ({min(values):,.0f} to {max(values):,.0f}) | "
        row += "1 |" if name == against else f"{shown(paired(rates, name, against))} |"
        rows.append(row + (f" {100 * middle / statistics.median(rates[limit]):.0f} % |" if limit else ""))
    return "\n".join(rows)
