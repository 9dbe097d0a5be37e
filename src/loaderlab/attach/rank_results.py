"""What each rank of a watched job measured, and the verdict over all ranks. Pure, apart from `save` and `load`.

A rank sends its steps to the first one as the rows that a rank of a run writes too. The job's steps replace those of the first rank, so that the job's verdict
comes from the same functions as that of a single process.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from loaderlab.attach.notebook import LoopHtml
from loaderlab.attach.reading import JudgedLoader, Reading
from loaderlab.attach.torch_terms import in_terms, in_torch_terms
from loaderlab.device.step_times import DeviceStep
from loaderlab.diagnosis.figures import NO_PROBES, evidence_of, figures_of
from loaderlab.diagnosis.rank_figures import job_figures
from loaderlab.diagnosis.rank_rows import RankRecord
from loaderlab.diagnosis.rank_steps import INT64, JoinedSteps, RankFacts, RankSteps, join
from loaderlab.diagnosis.rank_verdict import RanksVerdict
from loaderlab.diagnosis.rank_words import ranks_text
from loaderlab.diagnosis.ranks import judge_ranks
from loaderlab.diagnosis.verdict import judge
from loaderlab.meter import step_rows
from loaderlab.meter.step import Step
from loaderlab.meter.step_rows import ROW, Rows, rows_of
from loaderlab.metrics import NUM_RANKS, READ_MIB_PER_S, STRAGGLER_EXCESS_PCT
from loaderlab.system.files import write_text
from loaderlab.system.ranks import Ranks

NO_ROWS: Rows = np.zeros(0, ROW)
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
class RankResult(RankRecord):
    """The result of one rank.

    Attributes:
        rows: its steps; none without a verdict, and of longer programs only some blocks.
        unseparated: why its own work could not be separated from the exchange of gradients; empty if it was.
        reason: why it has no measured steps; empty if it has.
    """

    unseparated: str = ""
    reason: str = ""

    @property
    def rank(self) -> int:
        return self.ranks.rank

    @property
    def samples(self) -> INT64:
        """In each measured step; 0 if that is not known."""
        return self.rows["num_samples"][self.is_measured].astype(np.int64)

    def packed(self) -> bytes:
        """As bytes, which `unpacked` reads."""
        head = {
            "ranks": vars(self.ranks),
            "warmup_steps": self.warmup_steps,
            "parallel": self.parallel,
            "figures": dict(self.figures),
            "facts": vars(self.facts),
            "environment": dict(self.environment),
            "unseparated": self.unseparated,
            "reason": self.reason,
        }
        return zlib.compress(json.dumps(head).encode() + b"\n" + step_rows.packed(self.rows), 1)

    @property
    def starved_pct(self) -> float | None:
        """Of the rank alone, without regard to the others; None without steps."""
        total = float(self.window.length_ms.sum())
        return 100 * float(self.window.starved_ms.sum()) / total if total else None


def unpacked(payload: bytes) -> RankResult:
    """The result of a rank from its bytes.

    Raises:
        ValueError, KeyError, TypeError, zlib.error: they are not those of a result.
    """
    text, _, values = zlib.decompress(payload).partition(b"\n")
    head = json.loads(text)
    parts: dict[str, Any] = {"ranks": Ranks(**head.pop("ranks")), "facts": RankFacts(**head.pop("facts"))}
    return RankResult(rows=step_rows.unpacked(values), **parts, **head)


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


def result_of(reading: Reading, environment: Mapping[str, Any] | None = None) -> RankResult:
    """What this rank measured. ``environment``: of its node, if it describes it."""
    program, job = reading.program, reading.job
    facts = RankFacts(
        cores=program.cores,
        read_mib_per_s=job.figures.get(READ_MIB_PER_S),
        device=reading.device.partition(" ")[2],
        num_workers=job.facts.num_workers if job.facts.kind == "torch" else None,
        num_samples=job.facts.num_samples or None,
        num_batches=job.facts.num_batches or None,
        file_system=job.facts.file_system,
    )
    has_steps = bool(job.loop.window)  # also if they are not enough for a verdict on this rank alone
    return RankResult(
        Ranks(program.rank, program.num_ranks, node=program.node),
        rows_of(_some_blocks(job.loop.steps)) if has_steps else NO_ROWS,
        job.loop.warmup_steps,
        job.loop.parallel,
        job.figures,
        facts,
        environment or {},
        _unseparated(program.unseparated, job),
        "" if has_steps else job.verdict.because,
    )


def silent(rank: int, reason: str = SILENT) -> RankResult:
    """The result of a rank that sent none."""
    return RankResult(Ranks(rank), NO_ROWS, 0, 1, {}, reason=reason)


def _unseparated(reason: str, job: JudgedLoader) -> str:
    if reason:
        return reason
    return NO_DDP if job.num_exchanging < MOSTLY * len(job.loop.steps) else ""


def _some_blocks(steps: Sequence[Step]) -> Sequence[Step]:
    """At most about `MOST_STEPS` steps in blocks, which all ranks choose in the same way. Single steps would not do: with two workers,
    every second step may come from the slow one."""
    stride = 1
    while len(steps) > MOST_STEPS * stride:
        stride *= 2
    return [step for step in steps if step.step // BLOCK % stride == 0] if stride > 1 else steps


# ---- the verdict over all ranks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RanksReading:
    """The verdict over all ranks of a job.

    Attributes:
        results: of each rank, in order.
        unseparated: why the ranks' own work could not be separated from the exchange of gradients; empty if it was.
        reason: why the ranks were not compared at all; empty if they were.
        lost_pct: of each rank that was judged, the share of its time that the job would lose if only this rank waited for data.
    """

    verdict: RanksVerdict
    results: tuple[RankResult, ...] = ()
    unseparated: str = ""
    reason: str = ""
    lost_pct: Mapping[int, float] = field(default_factory=dict)

    @property
    def measured(self) -> list[RankSteps]:
        """The steps of the ranks that have some."""
        return [result.window for result in self.results if len(result.window.step)]

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

    def __str__(self) -> str:
        """The verdict and what limits it, in one line."""
        return "; ".join(filter(None, [self.verdict.sentence, *self.notes]))


def not_compared(reading: Reading, reason: str) -> Reading:
    """The reading of the first rank if those of the others are not available."""
    verdict = RanksVerdict(reading.program.num_ranks, (), None, None, None)
    return replace(reading, ranks=RanksReading(verdict, reason=reason))


def over_ranks(reading: Reading, sent: Sequence[RankResult]) -> Reading:
    """The reading of the first rank as that of the job.

    Args:
        sent: the results of the ranks that sent one; the first rank's own may be missing.
    """
    num_ranks = reading.program.num_ranks
    by_rank = {result.rank: result for result in [result_of(reading), *sent]}
    results = tuple(by_rank.get(rank) or silent(rank) for rank in range(num_ranks))
    measured = [result for result in results if len(result.window.step)]
    unseparated = next((result.unseparated for result in measured if result.unseparated), "")
    windows = [result.window for result in measured]
    if unseparated:
        windows = [replace(window, own_ms=window.starved_ms) for window in windows]
    verdict = judge_ranks(windows, num_ranks)
    ranks = RanksReading(verdict, results, unseparated)
    judged = [result for result in measured if result.rank not in verdict.unmeasured]
    if verdict.lost_pct is None or judged[0].rank != reading.program.rank:  # the loop of the first rank is needed
        return replace(reading, ranks=ranks)
    joined = join([window for window in windows if window.rank not in verdict.unmeasured])
    lost = zip((result.rank for result in judged), joined.lost_pct_by_rank.tolist(), strict=True)
    job = _job(reading.job, judged, joined, separated=not unseparated)
    figures = job.figures | {NUM_RANKS: float(num_ranks)}  # ranks without steps count too
    if verdict.excess_pct is not None:
        figures[STRAGGLER_EXCESS_PCT] = verdict.excess_pct
    return replace(reading, job=replace(job, figures=figures), ranks=replace(ranks, lost_pct=dict(lost)))


def _job(first: JudgedLoader, results: Sequence[RankResult], joined: JoinedSteps, *, separated: bool) -> JudgedLoader:
    """The verdict on the job, from the steps that all ranks measured."""
    loop = replace(first.loop, steps=_job_steps(first.loop.steps, results, joined, separated=separated))
    evidence = replace(evidence_of(loop, NO_PROBES), clocks_pct=None)  # the steps come from several devices
    verdict = replace(
        in_terms(judge(evidence, first.setup), in_torch_terms), html=LoopHtml(first.title, loop, first.setup)
    )
    figures = job_figures([result.figures for result in results], figures_of(loop, NO_PROBES, first.setup))
    return replace(first, verdict=verdict, figures=figures, loop=loop)


def _job_steps(
    first: Sequence[Step], results: Sequence[RankResult], joined: JoinedSteps, *, separated: bool
) -> list[Step]:
    """The steps of the first rank with the times of the slowest rank of each, and with the job's lost time. Those that some rank did not
    measure are not measured."""
    numbers = joined.step
    samples = sum(result.samples[np.searchsorted(result.window.step, numbers)] for result in results)
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
