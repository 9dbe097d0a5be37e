"""Settings of a comparison of recorded runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from loaderlab import metrics
from loaderlab.config.base import AUTO, MISSING, check_bounds, refuse, setting
from loaderlab.config.measure import TrackingConfig


@dataclass
class FailIfConfig:
    rate_below: float | None = setting(
        None, "exit with 1 where an arm's whole interval lies below this many times the baseline: 0.95", at_least=0
    )


@dataclass
class CompareConfig:
    """Which runs are put side by side, and what is made of them."""

    tracking: TrackingConfig = setting(MISSING, "where they are recorded")
    runs: str = setting(
        "latest",
        "latest: the newest sweep; the run id of a sweep; all: every run of tracking.experiment",
    )
    filter: str | None = setting(
        None, "of all runs of tracking.experiment those that an MLflow filter takes, in place of runs"
    )
    baseline: Any = setting(
        None,
        "what gains are over: setting:value, such as loader:native; a list of them; or the run id of another sweep, "
        "arm by arm; null: the first arm",
    )
    metric: str = setting(
        AUTO,
        f"the figure that gains are of; auto: {metrics.RATE}, of a ladder {metrics.TRAIN_S}",
        choices=metrics.COMPARED,
    )
    output: str | None = setting(
        None, "folder for report.html, comparison.csv, .json, .md, runs.csv and the pictures; null: only the terminal"
    )
    fail_if: FailIfConfig = setting(FailIfConfig, "a gate for your own CI")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.filter is not None and self.runs != "latest":
            raise refuse("filter", self.filter, f"and runs={self.runs} are two ways to choose runs", "runs=latest")
        given = self.baseline if isinstance(self.baseline, list) else [self.baseline]
        for part in given:
            if part is not None and not (isinstance(part, str) and re.fullmatch(r"[0-9a-f]{32}|[^:]+:.+", part)):
                raise refuse(
                    "baseline",
                    part,
                    "must be setting:value, a list of them, or the run id of a sweep",
                    "baseline=loader:native",
                )
        if any(part is not None and ":" not in part for part in given) and len(given) > 1:
            raise refuse("baseline", self.baseline, "takes one sweep, or settings, not both", "baseline=loader:native")

    @property
    def baseline_sweep(self) -> str | None:
        """The run id of the sweep that is the baseline, where one was given."""
        return self.baseline if isinstance(self.baseline, str) and ":" not in self.baseline else None

    @property
    def baseline_settings(self) -> dict[str, str] | None:
        """Setting to value, where those were given."""
        if self.baseline is None or self.baseline_sweep:
            return None
        given = self.baseline if isinstance(self.baseline, list) else [self.baseline]
        return dict(part.split(":", 1) for part in given)
