"""Settings of a comparison of recorded runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from loaderlab import metrics
from loaderlab.config.base import AUTO, MISSING, check_bounds, refuse, setting
from loaderlab.config.gates import FailIfConfig
from loaderlab.config.measure import TrackingConfig


@dataclass
class CompareConfig:
    """Which runs are compared, and how."""

    tracking: TrackingConfig = setting(MISSING, "where the runs are recorded")
    runs: str = setting(
        "latest",
        "latest: the newest sweep; the run id of a sweep; all: every run of tracking.experiment",
    )
    filter: str | None = setting(None, "instead of runs: all runs of tracking.experiment that match this MLflow filter")
    baseline: Any = setting(
        None,
        "baseline of the gains: setting:value, such as loader:native; a list of them; or the run id of another sweep, "
        "whose arms are compared one by one; null: the first arm",
    )
    metric: str = setting(
        AUTO,
        f"metric of the gains; auto: {metrics.RATE}, for a ladder {metrics.TRAIN_S}",
        choices=metrics.COMPARED,
    )
    output: str | None = setting(
        None, "folder for report.html, comparison.csv, .json, .md, runs.csv and the charts; null: terminal only"
    )
    fail_if: FailIfConfig = setting(FailIfConfig, "gate for your CI")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.filter is not None and self.runs != "latest":
            raise refuse("filter", self.filter, f"cannot be combined with runs={self.runs}", "runs=latest")
        parts = self.baseline if isinstance(self.baseline, list) else [self.baseline]
        for part in parts:
            if part is not None and not (isinstance(part, str) and re.fullmatch(r"[0-9a-f]{32}|[^:]+:.+", part)):
                raise refuse(
                    "baseline",
                    part,
                    "must be setting:value, a list of them, or the run id of a sweep",
                    "baseline=loader:native",
                )
        if any(part is not None and ":" not in part for part in parts) and len(parts) > 1:
            raise refuse(
                "baseline", self.baseline, "must be one sweep, or settings, not both", "baseline=loader:native"
            )

    @property
    def baseline_sweep(self) -> str | None:
        """The run id of the baseline sweep, or None."""
        return self.baseline if isinstance(self.baseline, str) and ":" not in self.baseline else None

    @property
    def baseline_settings(self) -> dict[str, str] | None:
        """Setting to value if the baseline is given by settings, otherwise None."""
        if self.baseline is None or self.baseline_sweep:
            return None
        parts = self.baseline if isinstance(self.baseline, list) else [self.baseline]
        return dict(part.split(":", 1) for part in parts)
