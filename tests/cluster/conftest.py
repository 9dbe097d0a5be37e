"""A Slurm with two nodes for the tests of a module."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm_on_host import Cluster, slurm, why_not
from tests.cluster.sweeps import Command


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A running Slurm, which this process and its children use. Its folder has a short path, as sockets need."""
    if reason := why_not():
        pytest.skip(f"no Slurm on this host: {reason}")
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed: pip install 'loaderlab[slurm]'")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm(Path(folder)) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def command(cluster: Cluster, tmp_path: Path) -> Iterator[Command]:
    """Starts commands on the cluster."""
    own = Command(tmp_path / "out.txt")
    yield own
    own.close()
