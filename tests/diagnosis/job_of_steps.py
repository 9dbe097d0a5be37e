"""The steps of a job, computed step by step: what `loaderlab.diagnosis.rank_rows.job_steps_of_rows` computes on arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from loaderlab.meter.step import Step


@dataclass
class _JobStep:
    """One step of the job, over the ranks seen so far."""

    slowest: Step
    compute_ms: float
    num_samples: int
    loss_sum: float
    disturbed: bool
    num_ranks: int = 1

    def add(self, step: Step) -> None:
        if step.own_ms > self.slowest.own_ms:
            self.slowest = step
        self.compute_ms = max(self.compute_ms, step.own_ms - step.starved_ms)
        self.num_samples += step.num_samples
        self.loss_sum += step.num_samples * step.loss
        self.disturbed |= step.disturbed
        self.num_ranks += 1


def job_steps(ranks: Iterable[Sequence[Step]]) -> list[Step]:
    """The steps of the job: for each step number that all ranks have, the step of the slowest rank (largest s + c).

    Its ``num_samples`` is the sum over ranks, its ``loss`` the mean over samples, and its ``lost_ms`` max(s + c) - max(c)
    over ranks. `loaderlab.meter.summary.summarize` then gives the rate and the starved share of the job.

    Args:
        ranks: the steps of each rank; they are read one rank after the other, so a generator needs memory for one rank only.
    """
    joined: dict[int, _JobStep] = {}
    num_ranks = 0
    for num_ranks, steps in enumerate(ranks, 1):
        for step in steps:
            if num_ranks == 1:
                compute_ms, loss_sum = step.own_ms - step.starved_ms, step.num_samples * step.loss
                joined[step.step] = _JobStep(step, compute_ms, step.num_samples, loss_sum, step.disturbed)
            elif step.step in joined:
                joined[step.step].add(step)
    return [
        replace(
            job.slowest,
            num_samples=job.num_samples,
            loss=job.loss_sum / job.num_samples if job.num_samples else float("nan"),
            disturbed=job.disturbed,
            lost_ms=job.slowest.own_ms - job.compute_ms,
        )
        for _, job in sorted(joined.items())
        if job.num_ranks == num_ranks
    ]
