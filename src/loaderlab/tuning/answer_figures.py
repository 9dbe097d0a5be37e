"""The metrics of an answer, for its run in MLflow. Pure."""

from __future__ import annotations

from loaderlab import metrics
from loaderlab.tuning.answer import Answer


def figures_of(answer: Answer) -> dict[str, float]:
    """The metrics of an answer."""
    figures = {
        metrics.TUNE_SEARCH_S: answer.search_s,
        metrics.TUNE_CONFIRM_S: answer.confirm_s,
        metrics.TUNE_STARTS_S: answer.starts_s,
    }
    if answer.chosen is None:
        return figures
    figures[metrics.TUNE_MAKERS] = float(answer.chosen.makers)
    confirmed = answer.confirmed.get(answer.chosen)
    if confirmed is not None:
        figures[metrics.TUNE_LOST_PCT] = confirmed.lost_pct
        if confirmed.lost_interval is not None:
            figures[metrics.TUNE_LOST_LOW_PCT], figures[metrics.TUNE_LOST_HIGH_PCT] = confirmed.lost_interval
    return figures
