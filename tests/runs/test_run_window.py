"""What the tuner gets of a run."""

from __future__ import annotations

import pytest

from loaderlab.diagnosis.figures import NO_PROBES, evidence_of
from loaderlab.diagnosis.verdict import Verdict
from loaderlab.runs.judge import Judged, window_of
from tests.diagnosis.test_figures import waits


def test_the_whole_window_counts_if_the_starved_share_changed() -> None:
    """Steps of 10 ms wait for 5 ms more at first, and later not at all: the verdict is about the later ones."""
    loop = waits([5.0] * 100 + [0.0] * 100)
    evidence = evidence_of(loop, NO_PROBES)
    assert evidence.change is not None
    assert evidence.starved_pct == pytest.approx(0.0, abs=0.1)
    window = window_of(Judged({}, Verdict("fed", None, None, ""), loop, evidence=evidence, threads=1), 0.0)
    assert window is not None
    assert window.num_steps == len(loop.window)
    whole = sum(step.starved_ms for step in loop.window) / sum(step.length_ms for step in loop.window)
    assert window.starved_pct == pytest.approx(100 * whole)
    assert window.starved_pct > 10
    assert window.starved_interval is not None
    assert window.starved_interval[1] > window.starved_pct
