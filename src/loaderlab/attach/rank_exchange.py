"""Brings the results of all ranks of a watched job to its first rank. Does not import torch before it is needed.

torchrun's agent has a key-value store that lives until all ranks have ended, at MASTER_ADDR and MASTER_PORT. Each rank writes its result
there and goes on; only the first one waits. A store of another launcher may end with its first rank, so it is not used.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from loaderlab.attach.publish import say
from loaderlab.system.causes import reason

if TYPE_CHECKING:
    from loaderlab.attach.rank_results import RankResult
    from loaderlab.attach.reading import Reading

CONNECT_S = 5.0
WAIT_S = 20.0  # for the other ranks
SILENT_S = 3.0  # of these, before a line says what is waited for
HURRY_S = 2.0  # for the other ranks, which are asked to end at the same time
POLL_S = 0.05
NO_STORE = "only torchrun has a store that brings their results together; each rank has measured itself"
NOT_REACHED = "the store of torchrun cannot be reached ({})"
NO_STEP = "its optimizer made no step while it was watched"

_numbers: dict[str, int] = {}  # of exchanges of this process by name: each exchange has keys of its own


def joined(reading: Reading, name: str = "", *, hurry: Callable[[], bool] = lambda: False) -> Reading:
    """The reading of the first rank, as that of the job; on another rank, its own reading, after sending it to the first.

    Args:
        name: of what is measured, if a process has several measurements that not all ranks make in the same order.
        hurry: whether to stop waiting for other ranks, because this process is asked to end.
    """
    place = _place(reading, os.environ)
    if place is None:
        return reading
    from loaderlab.attach.rank_results import not_compared, over_ranks, result_of, silent

    rank, num_ranks = place
    if not _has_store(os.environ):
        return not_compared(reading, NO_STORE) if rank == 0 else reading
    try:
        store, environment = _store(os.environ, name), _environment(reading)
        if rank == 0:
            return over_ranks(reading, [result_of(reading, environment), *_received(store, num_ranks, hurry)])
        result = result_of(reading, environment) if reading.program.num_ranks > 1 else silent(rank, NO_STEP)
        store.set(str(rank), result.packed())
        store.add("sent", 1)
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # torch's errors of the network are RuntimeErrors
        if rank == 0:
            return not_compared(reading, NOT_REACHED.format(reason(error)))
    return reading


def _place(reading: Reading, environment: Mapping[str, str]) -> tuple[int, int] | None:
    """The rank, and the number of ranks; None without others. One that made no step does not know the process group."""
    program = reading.program
    if program.num_ranks > 1:
        return program.rank, program.num_ranks
    try:
        rank, num_ranks = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    except (KeyError, ValueError):
        return None
    return (rank, num_ranks) if 0 < rank < num_ranks and not program.device and "torch" in sys.modules else None


def _has_store(environment: Mapping[str, str]) -> bool:
    return environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and "MASTER_PORT" in environment


def _environment(reading: Reading) -> dict[str, Any]:
    """The facts of this node, from the first of its ranks."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return {}
    from loaderlab.device.environment import describe_machine

    return describe_machine(reading.device.partition(" ")[2] or reading.device, reading.program.threads)


def _store(environment: Mapping[str, str], name: str) -> Any:
    """The agent's store, with keys of this exchange.

    Raises:
        RuntimeError, OSError, ValueError: it cannot be reached.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    store = TCPStore(
        environment["MASTER_ADDR"],
        int(environment["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=CONNECT_S),
    )
    number = _numbers[name] = _numbers.get(name, -1) + 1
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"loaderlab/{attempt}/{name}/{number}", store)


def _received(store: Any, num_ranks: int, hurry: Callable[[], bool]) -> list[RankResult]:
    """The results of the other ranks that arrive in time."""
    began, limit_s, silent = time.monotonic(), WAIT_S, True
    while store.add("sent", 0) < num_ranks - 1:
        waited_s = time.monotonic() - began
        if hurry():
            limit_s = min(limit_s, waited_s + HURRY_S)
        if waited_s > limit_s:
            break
        if silent and waited_s > SILENT_S:
            say(f"loaderlab: waiting for the results of the other ranks (at most {WAIT_S:.0f} s) …")
            silent = False
        time.sleep(POLL_S)
    results = (_result(store, rank) for rank in range(1, num_ranks) if store.check([str(rank)]))
    return [result for result in results if result is not None]


def _result(store: Any, rank: int) -> RankResult | None:
    """The result of a rank; None if it cannot be read, since its version of loaderlab may differ."""
    from loaderlab.attach.rank_results import unpacked

    try:
        return unpacked(store.get(str(rank)))
    except (ValueError, KeyError, TypeError, zlib.error):
        return None
