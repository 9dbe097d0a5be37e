"""What other tools and rules of thumb choose for a planted case, and how the tuner compares with them. Pure.

The rules: as many workers as cores; four per GPU; Lightning's ``suggested_max_num_workers`` (Lightning-AI/pytorch-lightning,
src/lightning/fabric/utilities/data.py): ``max(1, cpu_count // local_world_size - 1)``, "-1 to leave some resources for main process".
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.tuner_cases import CORES, DEEP, MAX_STARVED_PCT, TunerCase
from benchmarks.harness.tuner_judge import FED, state
from benchmarks.harness.tuner_runs import PlainRun, Setting, starved_of

TUNER, LOADTUNE = "loaderlab tune", "loadtune 0.3"
RULES: Mapping[str, Setting] = {
    "workers = cores": (CORES, DEEP[0]),
    "4 workers per GPU": (4, DEEP[0]),
    "Lightning's rule": (max(1, CORES - 1), DEEP[0]),
}
SAME_RATE = 0.97  # rates that differ by less count as equal
LOADTUNE_TOLERANCE = 0.02  # of loadtune's own choice: the fewest workers within it of the fastest
HEAD = "| case | tool | workers | prefetch | n | starved, % | MiB | CPU s per 1,000 samples | seconds to choose | loaderlab is |"
BEHIND, LEVEL, AHEAD = "behind", "level", "ahead"


@dataclass(frozen=True)
class Choice:
    """The settings that a tool chose for a case.

    Attributes:
        seconds: that it took; 0 for a rule.
        runs: plain runs with these settings.
    """

    case: TunerCase
    tool: str
    setting: Setting
    seconds: float
    runs: Sequence[PlainRun]

    @property
    def breaks_limit(self) -> bool:
        """Whether the settings need more memory than there is."""
        limit = self.case.limit_of_memory
        return limit is not None and self.setting[0] > limit

    @property
    def is_fed(self) -> bool:
        """Whether the runs show that the device is fed: by their interval, as the tuner's own answer; with one run, by its share."""
        starved = starved_of(self.runs)
        return state(starved) == FED if starved.interval is not None else starved.value < MAX_STARVED_PCT

    @property
    def rate(self) -> float:
        return statistics.median(run.rate for run in self.runs)


def loadtune_choice(raw: Mapping[str, Any]) -> Setting:
    """What loadtune recommends, from the file of its ``--save-raw``: the fewest workers among the fastest trials, if that is faster
    than the settings before."""
    baseline = raw["baseline"]
    trials = [trial for trial in raw["trials"] if trial["result"] and not trial["result"].get("error")]
    knobs, top = baseline["knobs"], max((trial["result"]["throughput"] for trial in trials), default=0.0)
    if top > 0:
        fast = [trial for trial in trials if trial["result"]["throughput"] >= top * (1 - LOADTUNE_TOLERANCE)]
        best = min(fast, key=lambda trial: (trial["knobs"]["num_workers"], -trial["result"]["throughput"]))
        if best["result"]["throughput"] > baseline["throughput"]:
            knobs = best["knobs"]
    makers = knobs["num_workers"]
    return makers, (knobs["prefetch_factor"] or DEEP[0]) if makers else 0


def compared(tuner: Choice, rival: Choice) -> str:
    """Whether the tuner's choice is `BEHIND`, `LEVEL` with or `AHEAD` of a rival's.

    Settings that break a limit are the worst, then those that are not shown to feed the device: the faster are better. Among settings that
    feed it, those with fewer workers are. Memory is not compared.
    """
    ranks = [(not choice.breaks_limit, choice.is_fed and not choice.breaks_limit) for choice in (tuner, rival)]
    if ranks[0] != ranks[1]:
        return AHEAD if ranks[0] > ranks[1] else BEHIND
    if tuner.is_fed:
        return _ordered(rival.setting[0], tuner.setting[0])
    if min(tuner.rate, rival.rate) >= SAME_RATE * max(tuner.rate, rival.rate):
        return LEVEL
    return _ordered(tuner.rate, rival.rate)


def table(choices: Iterable[Choice]) -> str:
    """A row for each choice; the tuner's own is the first of its case."""
    rows, own = [HEAD, "|---|---|---:|---:|---:|---:|---:|---:|---:|---|"], None
    for choice in choices:
        own = choice if choice.tool == TUNER else own
        is_rival = own is not None and own.case == choice.case and choice.tool != TUNER
        against = compared(own, choice) if is_rival and own is not None else ""
        rows.append(_row(choice, against))
    return "\n".join(rows)


def outcomes(choices: Sequence[Choice]) -> list[str]:
    """How the tuner's choice compares with each of a rival, in the cases that the tuner has an answer for."""
    own = {choice.case.name: choice for choice in choices if choice.tool == TUNER}
    rivals = [choice for choice in choices if choice.tool != TUNER and choice.case.name in own]
    return [compared(own[rival.case.name], rival) for rival in rivals]


def _ordered(own: float, other: float) -> str:
    return LEVEL if own == other else AHEAD if own > other else BEHIND


def _row(choice: Choice, against: str) -> str:
    makers, prefetch = choice.setting
    note = ", more memory than there is" if choice.breaks_limit else ""
    cells = [
        choice.case.name,
        choice.tool,
        f"{makers}{note}",
        f"{prefetch or '-'}",
        f"{len(choice.runs)}",
        f"{starved_of(choice.runs)}",
        f"{statistics.median(run.host_mib for run in choice.runs):.0f}",
        f"{statistics.median(run.cpu_ms for run in choice.runs):.2f}",
        f"{choice.seconds:.0f}" if choice.seconds else "-",
        against,
    ]
    return f"| {' | '.join(cells)} |"
