"""Fixtures of the tests that start sweeps."""

from __future__ import annotations

import pytest

from loaderlab.report import comparison_files
from loaderlab.runs import launch
from loaderlab.system import machine
from tests.launched import Launched


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    """Jobs are recorded without being run."""
    fake = Launched()
    monkeypatch.setattr(launch, "launch", fake)
    monkeypatch.setattr(launch, "check_parity", fake.check_parity)
    monkeypatch.setattr(machine, "state", lambda: {"machine/busy_pct": 1.0, "machine/load_1min": 0.5})
    monkeypatch.setattr(comparison_files, "save", lambda *_: None)  # its pictures take seconds
    return fake
