"""What each rank of a watched job measured, and the verdict over all ranks. Pure, apart from `save` and `load`.

A rank sends its measured steps to the first one as arrays. The job's steps replace those of the first rank, so that the job's verdict
comes from the same functions as that of a single process.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from loaderlab.attach.notebook import LoopHtml
from loaderlab.attach.reading import JudgedLoader, Reading
from loaderlab.attach.torch_terms import in_terms, in_torch_terms
from loaderlab.device.step_times import DeviceStep
from loaderlab.diagnosis.figures import NO_PROBES, evidence_of, figures_of
from loaderlab.diagnosis.rank_figures import job_figures
from loaderlab.diagnosis.rank_steps import FLOAT64, INT64, RankFacts, RankSteps, join, rank_steps
from loaderlab.diagnosis.rank_verdict import RanksVerdict
from loaderlab.diagnosis.rank_words import ranks_text
from loaderlab.diagnosis.ranks import judge_ranks
from loaderlab.diagnosis.verdict import judge
from loaderlab.meter.step import Step
from loaderlab.metrics import NUM_RANKS, READ_MIB_PER_S
from loaderlab.system.files import write_text

MOST_STEPS, BLOCK = 10_000, 500  # of longer programs, only some blocks of steps are compared
MOSTLY = 0.9  # of the steps have to contain an exchange of gradients
NO_DDP = "no DistributedDataParallel exchanged gradients in most steps"
SILENT = "it sent no result: it ended early, or it is not watched"
ALONE_ONLY = "the ranks could not be compared: {}"
WAITS_ONLY = (
    "the exchange of gradients could not be separated from the ranks' own work ({}), so ranks are compared by their waits for data only, "
    "and a slow device is not visible"
)


@dataclass(frozen=True)
class RankResult:
    """The result of one rank.

    Attributes:
        steps: the measured ones; those without a verdict have none.
        samples: in each step; 0 if that is not known.
        unseparated: why its own work could not be separated from the exchange of gradients; empty if it was.
        figures: metric name to value.
        reason: why it has no steps; empty if it has.
    """

    steps: RankSteps
    samples: INT64
    unseparated: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def rank(self) -> int:
        return self.steps.rank

    def packed(self) -> bytes:
        """As bytes, which `unpacked` reads."""
        steps = self.steps
        head = {
            "rank": steps.rank,
            "node": steps.node,
            "facts": vars(steps.facts),
            "unseparated": self.unseparated,
            "figures": self.figures,
            "reason": self.reason,
            "num_steps": len(steps.step),
        }
        arrays = [np.diff(steps.step, prepend=0), self.samples]
        parts = [array.astype("<i4").tobytes() for array in arrays]
        parts += [array.astype("<f4").tobytes() for array in (steps.starved_ms, steps.own_ms, steps.length_ms)]
        return zlib.compress(json.dumps(head).encode() + b"\n" + b"".join(parts), 1)

    @property
    def starved_pct(self) -> float | None:
        """Of the rank alone, without regard to the others; None without steps."""
        total = float(self.steps.length_ms.sum())
        return 100 * float(self.steps.starved_ms.sum()) / total if total else None


def unpacked(payload: bytes) -> RankResult:
    """The result of a rank from its bytes.

    Raises:
        ValueError, KeyError, TypeError, zlib.error: they are not those of a result.
    """
    text, _, values = zlib.decompress(payload).partition(b"\n")
    head = json.loads(text)
    count = head["num_steps"]
    whole = np.frombuffer(values, "<i4", 2 * count).reshape(2, count).astype(np.int64)
    times = np.frombuffer(values, "<f4", 3 * count, 8 * count).reshape(3, count).astype(np.float64)
    steps = RankSteps(
        head["rank"], head["node"], np.cumsum(whole[0]), times[0], times[1], times[2], RankFacts(**head["facts"])
    )
    return RankResult(steps, whole[1], head["unseparated"], head["figures"], head["reason"])


def save(results: Sequence[RankResult], path: Path) -> None:
    """Writes the results of ranks to a file, which `load` reads.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, json.dumps([base64.b64encode(result.packed()).decode() for result in results]))


def load(path: Path) -> list[RankResult]:
    """The results in a file; none if there is no such file."""
    return (
        [unpacked(base64.b64decode(text)) for text in json.loads(path.read_text(encoding="utf-8"))]
        if path.exists()
        else []
    )


def result_of(reading: Reading) -> RankResult:
    """What this rank measured."""
    program, job = reading.program, reading.job
    facts = RankFacts(
        cores=program.cores, read_mib_per_s=job.figures.get(READ_MIB_PER_S), device=reading.device.partition(" ")[2]
    )
    window = _some_blocks(job.loop.window)  # also if they are not enough for a verdict on this rank alone
    return RankResult(
        rank_steps(program.rank, program.node, window, facts),
        np.fromiter((step.num_samples for step in window), np.int64, len(window)),
        _unseparated(program.unseparated, job),
        job.figures,
        "" if len(window) else job.verdict.because,
    )


def silent(rank: int, reason: str = SILENT) -> RankResult:
    """The result of a rank that sent none."""
    nothing: FLOAT64 = np.zeros(0)
    steps = RankSteps(rank, "", np.zeros(0, np.int64), nothing, nothing, nothing)
    return RankResult(steps, np.zeros(0, np.int64), reason=reason)


def _unseparated(reason: str, job: JudgedLoader) -> str:
    if reason:
        return reason
    return NO_DDP if job.num_exchanging < MOSTLY * len(job.loop.steps) else ""


def _some_blocks(window: Sequence[Step]) -> Sequence[Step]:
    """At most about `MOST_STEPS` steps in blocks, which all ranks choose in the same way. Single steps would not do: with two workers,
    every second step may come from the slow one."""
    stride = 1
    while len(window) > MOST_STEPS * stride:
        stride *= 2
    return [step for step in window if step.step // BLOCK % stride == 0] if stride > 1 else window


# ---- the verdict over all ranks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RanksReading:
    """The verdict over all ranks of a job.

    Attributes:
        results: of each rank, in order.
        unseparated: why the ranks' own work could not be separated from the exchange of gradients; empty if it was.
        reason: why the ranks were not compared at all; empty if they were.
    """

    verdict: RanksVerdict
    results: tuple[RankResult, ...] = ()
    unseparated: str = ""
    reason: str = ""

    @property
    def measured(self) -> list[RankSteps]:
        """The steps of the ranks that have some."""
        return [result.steps for result in self.results if len(result.steps.step)]

    @property
    def notes(self) -> list[str]:
        """What limits the verdict."""
        notes = [ALONE_ONLY.format(self.reason)] if self.reason else []
        if self.unseparated:
            notes.append(WAITS_ONLY.format(self.unseparated))
        reasons: dict[str, list[int]] = {}
        for result in self.results:
            if result.reason:
                reasons.setdefault(result.reason, []).append(result.rank)
        return notes + [f"{ranks_text(ranks)}: {reason}" for reason, ranks in reasons.items()]


def not_compared(reading: Reading, reason: str) -> Reading:
    """The reading of the first rank if those of the others are not available."""
    verdict = RanksVerdict(reading.program.num_ranks, (), None, None, None)
    return replace(reading, ranks=RanksReading(verdict, reason=reason))


def over_ranks(reading: Reading, others: Sequence[RankResult]) -> Reading:
    """The reading of the first rank as that of the job.

    Args:
        others: the results of the other ranks that sent one.
    """
    num_ranks = reading.program.num_ranks
    by_rank = {result.rank: result for result in [result_of(reading), *others]}
    results = tuple(by_rank.get(rank) or silent(rank) for rank in range(num_ranks))
    measured = [result for result in results if len(result.steps.step)]
    unseparated = next((result.unseparated for result in measured if result.unseparated), "")
    if unseparated:
        measured = [replace(result, steps=replace(result.steps, own_ms=result.steps.starved_ms)) for result in measured]
    verdict = judge_ranks([result.steps for result in measured], num_ranks)
    ranks = RanksReading(verdict, results, unseparated)
    judged = [result for result in measured if result.rank not in verdict.unmeasured]
    if verdict.lost_pct is None or judged[0].rank != reading.program.rank:  # the loop of the first rank is needed
        return replace(reading, ranks=ranks)
    job = _job(reading.job, judged, separated=not unseparated)
    figures = job.figures | {NUM_RANKS: float(num_ranks)}  # ranks without steps count too
    return replace(reading, job=replace(job, figures=figures), ranks=ranks)


def _job(first: JudgedLoader, results: Sequence[RankResult], *, separated: bool) -> JudgedLoader:
    """The verdict on the job, from the steps that all ranks measured."""
    loop = replace(first.loop, steps=_job_steps(first.loop.steps, results, separated=separated))
    evidence = replace(evidence_of(loop, NO_PROBES), clocks_pct=None)  # the steps come from several devices
    verdict = replace(
        in_terms(judge(evidence, first.setup), in_torch_terms), html=LoopHtml(first.title, loop, first.setup)
    )
    figures = job_figures([result.figures for result in results], figures_of(loop, NO_PROBES, first.setup))
    return replace(first, verdict=verdict, figures=figures, loop=loop)


def _job_steps(first: Sequence[Step], results: Sequence[RankResult], *, separated: bool) -> list[Step]:
    """The steps of the first rank with the times of the slowest rank of each, and with the job's lost time. Those that some rank did not
    measure are not measured."""
    joined = join([result.steps for result in results])
    numbers = results[0].steps.step
    for result in results[1:]:
        numbers = np.intersect1d(numbers, result.steps.step, assume_unique=True)
    samples = sum(result.samples[np.searchsorted(result.steps.step, numbers)] for result in results)
    rows = (joined.slowest, np.arange(joined.num_steps))
    times = zip(
        numbers.tolist(),
        np.broadcast_to(samples, len(numbers)).tolist(),
        joined.starved_ms[rows].tolist(),
        (joined.length_ms - joined.own_ms[rows] if separated else np.zeros(joined.num_steps)).tolist(),
        joined.length_ms.tolist(),
        joined.lost_ms.tolist(),
        strict=True,
    )
    of_job = {number: values for number, *values in times}
    return [
        _job_step(step, *of_job[step.step]) if step.step in of_job else replace(step, disturbed=True) for step in first
    ]


def _job_step(step: Step, samples: int, starved: float, shared: float, length: float, lost: float) -> Step:
    device = None
    if step.device is not None:
        device = DeviceStep(starved, 0.0, length - starved, 0.0, 0.0, float("nan"), collective=shared)
    wait_ns, length_ns = round(1e6 * starved), round(1e6 * length)
    return replace(
        step,
        num_samples=samples,
        host=(wait_ns, 0, length_ns - wait_ns, 0, 0),
        device=device,
        collective_ns=round(1e6 * shared),
        lost_ms=lost,
    )
