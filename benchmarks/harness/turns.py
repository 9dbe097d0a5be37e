"""Measures arms in turns: each has its own process group, which is stopped while it is not its turn.

Workers, threads and queues that are stopped (SIGSTOP) take no processor time from the others and keep their state, so no turn
includes a start. A turn discards the batches that were made ahead. Then it counts batches for a fixed time, up to a whole
number of bursts, because workers that build whole batches deliver one each at about the same time. The order of the arms
changes with each repeat. The parent process waits in a pipe meanwhile.
"""

from __future__ import annotations

import itertools
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
    """The endless batches of an arm, each as its number of samples.

    Attributes:
        ahead: batches that are made before they are requested.
        parallel: batches that are made at the same time.
    """

    batches: Iterator[int]
    ahead: int
    parallel: int = 1


@dataclass(frozen=True)
class Arm:
    """What is measured: the result of ``build(*args)``, called in the arm's own process; ``label`` describes it."""

    name: str
    build: Callable[..., Served]
    args: tuple[Any, ...]
    label: str = ""


@dataclass(frozen=True)
class Turn:
    """The result of one turn.

    Attributes:
        cpu_ms: processor time of the arm's processes for a sample. Other programs affect it far less than the rate.
    """

    samples_per_s: float
    cpu_ms: float


Turns = dict[str, list[Turn]]  # the turns of each arm, in the order of the repeats


def take_turns(
    arms: Sequence[Arm], rounds: int, seconds: float, starts: int = 1, on_round: Callable[[int], None] = lambda _: None
) -> Turns:
    """The turns of all arms: one of this length for each arm in each round, after all arms were built.

    Args:
        starts: the arms are built so many times, each for its share of the rounds. The same code is up to 5 % faster or slower
            in another process, and with one start the confidence intervals do not contain that.
        on_round: called after each round with its number, from 1.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the arms are ended as well
    turns: Turns = {arm.name: [] for arm in arms}
    first_rounds = [rounds * start // starts for start in range(starts + 1)]
    for first, following in itertools.pairwise(first_rounds):
        if first < following:
            _take_rounds(arms, range(first, following), seconds, turns, on_round)
    return turns


def _take_rounds(
    arms: Sequence[Arm], rounds: range, seconds: float, turns: Turns, on_round: Callable[[int], None]
) -> None:
    """Builds the arms, and adds their turns in these rounds to ``turns``."""
    context = multiprocessing.get_context("spawn")
    links: dict[str, tuple[int, Connection]] = {}
    try:
        for arm in arms:
            link, arm_link = context.Pipe()
            process = context.Process(target=_serve, args=(arm, arm_link))
            process.start()
            arm_link.close()  # so that the death of an arm raises EOFError here
            assert process.pid is not None
            links[arm.name] = process.pid, link
            link.recv()
            os.killpg(process.pid, signal.SIGSTOP)
        for number in rounds:
            for place in range(len(arms)):
                name = arms[(number + place) % len(arms)].name
                group, link = links[name]
                os.killpg(group, signal.SIGCONT)
                link.send(seconds)
                turns[name].append(link.recv())
                os.killpg(group, signal.SIGSTOP)
            on_round(number + 1)
    finally:
        for group, link in links.values():
            os.killpg(group, signal.SIGKILL)
            link.close()


def _serve(arm: Arm, link: Connection) -> None:
    os.setpgrp()
    torch.set_num_threads(1)  # the arm's workers need the cores
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
        elapsed_s = time.perf_counter() - began
        if elapsed_s >= seconds and count % served.parallel == 0:
            return Turn(samples / elapsed_s, 1e3 * (_cpu_s() - began_cpu_s) / samples)


def _cpu_s() -> float:
    """Processor time of this process and its descendants."""
    parent = psutil.Process()
    cpu_times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return sum(times.user + times.system for times in cpu_times)


def paired(turns: Turns, arm: str, other: str, confidence: float = stats.CONFIDENCE) -> stats.Ratio:
    """The ratio of two arms' rates, paired by round."""
    pairs = zip(turns[arm], turns[other], strict=True)
    return stats.ratio([(turn.samples_per_s, baseline.samples_per_s) for turn, baseline in pairs], confidence)


def median_rate(turns: Sequence[Turn]) -> float:
    """Median samples per second of an arm."""
    return statistics.median(turn.samples_per_s for turn in turns)


def shown(ratio: stats.Ratio) -> str:
    """The ratio as text, with its confidence interval."""
    interval = "no interval" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
    return f"{ratio.value:.3f} ({interval}, n = {ratio.num_pairs})"


def table(turns: Turns, baseline: str, limit: str | None = None) -> str:
    """A Markdown table: median and range of the rate, the ratio to ``baseline``, and the share of the median of ``limit``."""
    rows = [
        f"| arm | samples/s: median (range) | × {baseline} (95 % CI) | CPU ms per sample |"
        + (f" of {limit} |" if limit else ""),
        "|---|---|---|---|" + ("---|" if limit else ""),
    ]
    for name, arm_turns in turns.items():
        rates = [turn.samples_per_s for turn in arm_turns]
        row = f"| {name} | {median_rate(arm_turns):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | "
        row += "1 |" if name == baseline else f"{shown(paired(turns, name, baseline))} |"
        row += f" {statistics.median(turn.cpu_ms for turn in arm_turns):.3g} |"
        rows.append(row + (f" {100 * median_rate(arm_turns) / median_rate(turns[limit]):.0f} % |" if limit else ""))
    return "\n".join(rows)
