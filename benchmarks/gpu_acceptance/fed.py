"""Whether the best loader feeds ResNet-50: the share of its ceiling that each loader reaches, with its interval."""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.compare.arms import Arm, Comparison
from loaderlab.compare.stats import CONFIDENCE, Ratio, ratio
from loaderlab.diagnosis.evidence import INCONCLUSIVE
from loaderlab.metrics import CEILING_RATE, EFFICIENCY_PCT, RATE
from loaderlab.parity.status import PARITY, UNLIKE_WORK

LEAST_PCT = 95.0
FROM_FILES = ("native", "spdl", "dali")


@dataclass(frozen=True)
class Share:
    """The share of its ceiling that an arm reaches, paired by run; inconclusive runs are left out.

    Attributes:
        ratio: with its interval; None without a conclusive run.
        num_left_out: inconclusive runs.
    """

    arm: Arm
    ratio: Ratio | None
    num_left_out: int

    @property
    def reaches(self) -> bool | None:
        """Whether it reaches `LEAST_PCT`; None if the interval contains it, or there is none."""
        if self.ratio is None or self.ratio.low is None or self.ratio.high is None:
            return None
        least = LEAST_PCT / 100
        return True if self.ratio.low >= least else False if self.ratio.high < least else None

    @property
    def rank(self) -> tuple[bool, float]:
        """Arms with an interval are better than those without."""
        return (self.ratio is not None and self.ratio.low is not None, self.ratio.value if self.ratio else 0.0)

    def __str__(self) -> str:
        left_out = f", {self.num_left_out} inconclusive left out" if self.num_left_out else ""
        if self.ratio is None:
            return f"{self.arm.label}: no conclusive run{left_out}"
        interval = "no interval"
        if self.ratio.low is not None and self.ratio.high is not None:
            interval = f"{100 * self.ratio.level:.3g} % CI {100 * self.ratio.low:.1f} to {100 * self.ratio.high:.1f}"
        return f"{100 * self.ratio.value:.1f} % ({interval}, n = {self.ratio.num_pairs}{left_out}): {self.arm.label}"


def judged(comparison: Comparison | None) -> tuple[str, bool | None]:
    """The share of the best arm that reads files while it trains and does the same work as the others, in words; and whether it
    reaches `LEAST_PCT`: None if there are too few conclusive runs, or the interval is too wide.

    Arms whose samples are already on the device do not need to be fed. The intervals have the confidence level for a choice
    among these arms, since the best one is selected by its result.
    """
    arms = [
        arm
        for arm in ([] if comparison is None else comparison.arms)
        if arm.runs[0].settings["loader.name"] in FROM_FILES
        and arm.median(EFFICIENCY_PCT) is not None
        and not any(status.startswith(UNLIKE_WORK) for status in arm.tags(PARITY))
    ]
    if not arms:
        return "", None
    shares = [_share(arm, 1 - (1 - CONFIDENCE) / len(arms)) for arm in arms]
    text = str(max(shares, key=lambda share: share.rank))
    if any(share.reaches for share in shares):
        return text, True
    return text, False if all(share.reaches is False for share in shares) else None


def _share(arm: Arm, level: float) -> Share:
    """The share of an arm: in each run, the rate and the ceiling were measured one after the other."""
    runs = [run for run in arm.runs if run.tags.get("verdict") != INCONCLUSIVE]
    pairs = [(run.figures[RATE], run.figures[CEILING_RATE]) for run in runs if {RATE, CEILING_RATE} <= set(run.figures)]
    return Share(arm, ratio(pairs, level) if pairs else None, len(arm.runs) - len(runs))
