"""The gate: does every arm reach a given share of its baseline's rate? Pure: a comparison in, the failing arms out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loaderlab.compare.arms import ComparedArm, Comparison


@dataclass(frozen=True)
class Gate:
    """The result of a gate, with the arms that it cannot judge. Arms without a loader are left out.

    Attributes:
        compared: arms other than the baselines.
        unpaired: arms without a baseline, and baselines that no arm is compared with.
        unmeasured: jobs without a value, and why: see `Comparison.not_judged`.
        unclear: compared arms with too few repeats in common with their baseline for an interval.
        below: compared arms whose whole interval is below the limit.
    """

    compared: Sequence[ComparedArm]
    unpaired: Sequence[ComparedArm]
    unmeasured: Sequence[str]
    unclear: Sequence[ComparedArm]
    below: Sequence[ComparedArm]

    @property
    def has_baseline(self) -> bool:
        """Whether any arm is compared with a baseline."""
        return any(arm.partner is not None for arm in self.compared)


def judge_gate(comparison: Comparison, limit: float) -> Gate:
    """The result of comparing each arm's interval with a limit.

    Args:
        limit: the least gain over the baseline: 0.95 allows an arm to be 5 % worse.
    """
    arms = [arm for arm in comparison.arms if not arm.is_ceiling]
    compared = [arm for arm in arms if not arm.is_baseline]
    alone = [arm for arm in compared if arm.partner is None]
    alone += [arm for arm in arms if arm.is_baseline and not any(other.partner is arm for other in compared)]
    unmeasured = comparison.not_judged
    unclear = [arm for arm in compared if arm.gain is None or arm.gain.high is None]
    below = [arm for arm in compared if arm.gain is not None and arm.gain.high is not None and arm.gain.high < limit]
    return Gate(compared, alone, unmeasured, unclear, below)
