"""Properties derived from a run's settings and tags, including records of earlier versions."""

from __future__ import annotations

import pytest

from tests.records import recorded


@pytest.mark.parametrize(("loader", "is_ceiling"), [("replay", True), ("native", False), ("dali", False)])
def test_a_run_that_replays_batches_is_a_ceiling(loader: str, is_ceiling: bool) -> None:
    assert recorded(100, loader__name=loader).is_ceiling is is_ceiling


@pytest.mark.parametrize(
    ("tags", "shares"), [({"device.type": "cpu"}, True), ({"device.type": "cuda"}, False), ({}, False)]
)
def test_step_and_loader_share_cores_in_a_cpu_run(tags: dict[str, str], shares: bool) -> None:
    assert recorded(100, tags=tags).shares_cores is shares
