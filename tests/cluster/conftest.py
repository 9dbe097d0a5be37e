"""A Slurm with two nodes for the tests of this folder."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm_on_host import Cluster, missing, slurm, why_not
from tests.cluster.sweeps import Command
from tests.engines import needs


@pytest.fixture(scope="package")
def running_slurm() -> Iterator[Cluster]:
    """One Slurm for all tests, since its start takes seconds. Its folder has a short path, as sockets need."""
    needs(missing())
    needs("" if importlib.util.find_spec("submitit") else "not installed: submitit (pip install 'loaderlab[slurm]')")
    if reason := why_not():
        pytest.skip(f"no Slurm on this host: {reason}")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm(Path(folder)) as running:
        yield running


@pytest.fixture
def cluster(running_slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A Slurm without jobs, which this process and its children use."""
    for name, value in running_slurm.environment.items():
        monkeypatch.setenv(name, value)
    running_slurm.start_test()
    yield running_slurm
    running_slurm.cancel_all()


@pytest.fixture
def command(cluster: Cluster, tmp_path: Path) -> Iterator[Command]:
    """Starts commands on the cluster."""
    own = Command(tmp_path / "out.txt")
    yield own
    own.close()
