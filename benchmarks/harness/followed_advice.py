"""Follows a verdict's advice on a planted case, and compares the predicted gain with the measured one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.harness.planted_cases import Case, run
from loaderlab import metrics
from loaderlab.diagnosis.evidence import Advice, as_override
from loaderlab.diagnosis.verdict import Verdict


def follow(cases: Sequence[Case], repeats: int) -> int:
    """The exit code: 1 if fewer than 90 % of the predicted gains are within 10 % of the measured one."""
    num_within = num_compared = 0
    for case in cases:
        for _ in range(repeats):
            figures, verdict = run(case)
            action, predicted, after = best_advice(case, verdict)
            num_compared += 1
            if after is None:
                print(f"{case.name:32s} WRONG: no advice that the case can follow: {verdict}", flush=True)
                continue
            gain = run(after)[0][metrics.RATE] / figures[metrics.RATE]
            ratio = predicted / gain
            num_within += 0.9 <= ratio <= 1.1
            print(
                f"{case.name:32s} {action}: predicted {predicted:.2f}x, measured {gain:.2f}x, ratio {ratio:.2f}",
                flush=True,
            )
    print(f"predicted / measured within 0.9 to 1.1 in {num_within} of {num_compared}")
    return 0 if num_within >= 0.9 * num_compared else 1


def best_advice(case: Case, verdict: Verdict) -> tuple[str, float, Case | None]:
    """The first advice with a gain that the case can follow, its gain, and the case after it.

    If no advice has a gain, the verdict says that no loader can gain 5 %: then twice the workers must bring no gain.
    """
    for advice in verdict.advice:
        after = followed(case, advice)
        if advice.gain_x is not None and after is not None:
            return as_override(advice), advice.gain_x, after
    if any(advice.gain_x is not None for advice in verdict.advice):
        return "", 1.0, None
    return f"no gain expected; loader.num_workers={2 * case.workers}", 1.0, replace(case, workers=2 * case.workers)


def followed(case: Case, advice: Advice) -> Case | None:
    """The case after the advice; None if the advice changes a setting that a case does not have."""
    value = advice.value
    match advice.setting:
        case "loader.num_workers":
            return replace(case, workers=int(value))
        case "batch_size":
            return replace(case, batch=int(value), steps=case.steps * case.batch // int(value))
        case "loader.prefetch_factor":
            return replace(case, options={**case.options, "prefetch_factor": int(value)})
        case _:
            return None
