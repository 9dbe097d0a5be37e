"""Answers of the tuner, built by hand: one of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loaderlab.tuning.answer import (
    CERTIFIED,
    NOT_FED,
    NOT_SEPARABLE,
    UNCONFIRMED,
    Answer,
    Confirmed,
    Excluded,
    Predicted,
    Tried,
)
from loaderlab.tuning.candidate import SPDL, Branch, Candidate
from loaderlab.tuning.trial import Facts, Interval, Measured

BATCH = 64
EVIL = '<img src=x onerror="alert(1)">&'


def workers(count: int, prefetch: int = 2, *, pinned: bool = True) -> Candidate:
    if count == 0:
        return Candidate(pin_memory=pinned)
    return Candidate(makers=count, prefetch=prefetch, pin_memory=pinned, persistent=True)


def facts(current: Candidate, in_process: str = "") -> Facts:
    branches = [Branch(), Branch(SPDL)]
    return Facts(current, branches, 400, BATCH, batch_bytes=9_633_792, takes_copies=True, in_process=in_process)


def measured(rate: float, lost_pct: float) -> Measured:
    interval = (max(0.0, lost_pct - 1), lost_pct + 1)
    step_ms = 1e3 * BATCH / rate
    return Measured(rate, lost_pct, interval, step_ms, 40, 0.0, cpu_s_per_sample=0.0021, start_s=1.4, total_s=5)


def tried(candidate: Candidate, rate: float, lost: float, predicted: tuple[float, float] | None, reason: str) -> Tried:
    expected = Predicted(*predicted) if predicted is not None else None
    interval = (max(0.0, lost - 1.5), lost + 1.5)
    return Tried(candidate, reason, expected, measured(rate, lost), "", lost, interval)


def confirmed(
    candidate: Candidate, rate: float, lost: float, interval: Interval | None, num_runs: int = 3
) -> Confirmed:
    runs = [measured(rate, lost)] * num_runs
    return Confirmed(candidate, runs, lost, interval, rate, (0.97 * rate, 1.03 * rate) if interval else None)


def by_candidate(*entries: Confirmed) -> dict[Candidate, Confirmed]:
    return {entry.candidate: entry for entry in entries}


SEARCH = (
    tried(workers(4), 2040, 0.3, None, "the current settings"),
    tried(workers(1), 720, 64.8, (735, 64.0), "a second point of the supply curve"),
    tried(workers(3), 2035, 0.4, (2050, 0.0), "predicted to feed the device"),
    tried(workers(2), 1425, 30.3, (1470, 28.0), "the best of the cheaper settings"),
    tried(workers(2, 4), 1450, 29.1, None, "waits jitter, so a longer queue may help"),
)
SUPPLY: Mapping[str, Sequence[tuple[int, float]]] = {"native": [(count, 735.0 * count) for count in range(1, 9)]}
DEMAND = [(count, 2050.0) for count in range(9)]

certified = Answer(
    CERTIFIED,
    facts(workers(4)),
    5.0,
    workers(3),
    workers(2, 4),
    workers(4),
    SEARCH,
    [Excluded(workers(7), "7 workers need 2,940 MiB, and 2,600 MiB are free")],
    by_candidate(
        confirmed(workers(3), 2031, 0.42, (0.08, 0.93)),
        confirmed(workers(2, 4), 1442, 29.6, (27.1, 32.0)),
        confirmed(workers(4), 2038, 0.31, (0.05, 0.61)),
    ),
    "with 3 workers the device is starved 0.4 % of the time (0.1 to 0.9 %, n = 3), below 5 %; with 2 workers, prefetch 4, the next "
    "cheaper settings, 30 % of the time (27 to 32 %, n = 3)",
    search_s=61.2,
    confirm_s=58.9,
    starts_s=22.5,
    supply=SUPPLY,
    demand=DEMAND,
    memory_limit_makers=6,
)

not_separable = replace(
    certified,
    grade=NOT_SEPARABLE,
    neighbour=workers(2),
    certificate="not separable: with 3 workers the device is starved 2.4 % of the time (0.6 to 4.97 %, n = 3), below 5 %; with 2 "
    "workers, the next cheaper settings, 5.6 % of the time (3.4 to 7.8 %, n = 3), which is not shown to be above 5 %",
    confirmed=by_candidate(confirmed(workers(3), 2031, 2.4, (0.6, 4.97)), confirmed(workers(2), 1930, 5.6, (3.4, 7.8))),
    memory_limit_makers=None,
    excluded=(),
)

nothing_feeds = Answer(
    NOT_FED,
    facts(workers(0)),
    5.0,
    workers(2),
    workers(1),
    workers(2),
    [
        tried(workers(0), 410, 80.0, None, "the current settings"),
        tried(workers(1), 520, 74.6, (560, 72.7), "a second point of the supply curve"),
        tried(workers(2), 905, 55.9, (1040, 49.3), "as many workers as the cores can use"),
        Tried(
            workers(2, 8),
            "waits jitter, so a longer queue may help",
            None,
            None,
            "the worker was killed: out of memory",
        ),
    ],
    [Excluded(workers(3), "3 workers need more than the 2 cores of this process")],
    by_candidate(
        confirmed(workers(2), 902, 56.0, (54.2, 57.9)),
        confirmed(workers(1), 521, 74.6, (73.0, 76.1)),
        confirmed(workers(0), 411, 80.0, (79.1, 80.8)),
    ),
    "nothing that was tried feeds the device: with 2 workers the device is starved 56 % of the time (54 to 58 %, n = 3), and below "
    "5 % counts as fed",
    missing="4.6 cores would feed it, and this process has 2. Images stored at 256x256 would need 2.1 cores.",
    search_s=38.0,
    confirm_s=41.0,
    starts_s=15.0,
    supply={"native": [(count, 520.0 * count) for count in range(1, 5)]},
    demand=[(count, 2050.0) for count in range(5)],
    memory_limit_makers=2,
)

interrupted = replace(
    certified,
    grade=UNCONFIRMED,
    interrupted=True,
    certificate="not confirmed, because it was interrupted; in one trial with 3 workers the device was starved 0.4 % of the time: fed",
    tried=SEARCH[:3],
    neighbour=workers(1),
    confirmed={},
    confirm_s=0.0,
)

in_process = replace(
    certified,
    facts=facts(workers(4), "the step is a closure over a model on cuda:0, which cannot be sent to another process"),
    excluded=[Excluded(workers(7), EVIL)],
    notes=["A worker of the user's loader printed a warning: " + EVIL],
)

SPDL_TWO = Candidate(Branch(SPDL), 2, 3, pin_memory=True)
already_fed = replace(
    certified,
    chosen=SPDL_TWO,
    certificate="with spdl, 2 threads, prefetch 3 the device is starved 0.5 % of the time (0.2 to 0.8 %, n = 3), below 5 %; with 2 "
    "workers, prefetch 4, the next cheaper settings, 30 % of the time (27 to 32 %, n = 3)",
    tried=[
        *SEARCH[:4],
        tried(SPDL_TWO, 2034, 0.5, (2050, 0.0), "fewer makers than the cheapest that feeds the device"),
    ],
    confirmed=by_candidate(
        confirmed(SPDL_TWO, 2030, 0.5, (0.2, 0.8)),
        confirmed(workers(2, 4), 1442, 29.6, (27.1, 32.0)),
        confirmed(workers(4), 2038, 0.31, (0.05, 0.61)),
    ),
    supply={**SUPPLY, "spdl": [(1, 1080.0), (2, 2120.0), (3, 3050.0)]},
)

no_workers = Answer(
    CERTIFIED,
    facts(workers(0)),
    5.0,
    workers(0),
    None,
    workers(0),
    [tried(workers(0), 6400, 1.2, None, "the current settings")],
    (),
    by_candidate(confirmed(workers(0), 6390, 1.3, (0.7, 1.9))),
    "with 0 workers the device is starved 1.3 % of the time (0.7 to 1.9 %, n = 3), below 5 %; nothing is cheaper than no workers",
    search_s=6.0,
    confirm_s=15.0,
    starts_s=5.5,
    demand=[(0, 6480.0), (1, 6480.0)],
)

nothing_ran = replace(
    nothing_feeds,
    grade=UNCONFIRMED,
    chosen=None,
    neighbour=None,
    fastest=None,
    certificate="not confirmed, because the time limit was reached. Nothing was measured",
    tried=[Tried(workers(0), "the current settings", None, None, "the process was killed by signal 9")],
    confirmed={},
    missing="",
    supply={},
    demand=(),
)

ANSWERS = {
    "certified": certified,
    "not separable": not_separable,
    "nothing feeds": nothing_feeds,
    "interrupted": interrupted,
    "in process": in_process,
    "already fed": already_fed,
    "no workers": no_workers,
    "nothing ran": nothing_ran,
}
