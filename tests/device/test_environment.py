"""The number of usable cores, and the device that a run gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loaderlab import config
from loaderlab.config import UserError
from loaderlab.device import environment, resolve
from loaderlab.device.cpu import Cpu
from loaderlab.system import machine, processes, versions


@pytest.mark.parametrize(
    ("quota", "cores", "expected"),
    [
        ("max 100000", 8, 8),
        ("200000 100000", 8, 2),
        ("150000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("900000 100000", 4, 4),
    ],
)
def test_cores_are_bounded_by_affinity_and_quota(
    quota: str, cores: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    real = machine._cgroup_quota
    monkeypatch.setattr(machine, "_cgroup_quota", lambda: real(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)), raising=False)
    assert machine.available_cores() == expected


def test_quota_of_an_old_cgroup(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert machine._cgroup_quota(tmp_path) == 3
    assert machine._cgroup_quota(tmp_path / "nosuch") is None


def test_device_auto_is_cuda_if_torch_can_use_it() -> None:
    assert resolve.resolve_device("auto").kind == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve.resolve_device("cpu") == Cpu()


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:x", ""])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(UserError, match="must be auto, cpu, cuda or cuda:N"):
        resolve.resolve_device(name)


@pytest.mark.gpu
def test_a_cuda_device_that_is_not_there() -> None:
    assert resolve.resolve_device("cuda").kind == "cuda"
    with pytest.raises(UserError, match="counted from 0"):
        resolve.resolve_device("cuda:99")


def test_the_description_names_versions_cores_and_processor() -> None:
    description = environment.describe(Cpu())
    assert description["versions"]["torch"]
    assert description["cores_available"] >= 1
    assert description["processor"]


def test_a_process_is_identified_by_its_pid_and_start_time() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = processes.process_identity(child.pid)
    assert identity == processes.process_identity(child.pid)
    assert identity != processes.process_identity(os.getpid())
    child.communicate(b"\n")
    assert processes.process_identity(child.pid) is None
    assert 0 < processes.process_age_s() < 3600


def test_commit_of_this_checkout(tmp_path: Path) -> None:
    assert versions.git_commit(tmp_path) is None
    commit = versions.git_commit(config.PROJECT)
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
