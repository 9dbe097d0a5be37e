"""Memory is checked before workers start: an error if no batches fit, a warning if those prepared ahead do not fit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from loaderlab import data
from loaderlab.config import TrainConfig, UserError
from loaderlab.device.cpu import Cpu
from loaderlab.runs import job, run
from loaderlab.runs.loader_set import LoaderSet
from loaderlab.runs.shared_memory import SHM, check_shared_memory, sample_bytes
from loaderlab.system.doctor import MIB
from loaderlab.system.terminal import Terminal

BATCH = 64 * 1024 * 4  # bytes of 64 vectors of 1024 values: a quarter of a MiB
SETTINGS = ["data=vectors", "model=feedforward", "model.hidden=[4]", "device=cpu", "steps=1", "batch_size=64"]
SETTINGS += ["data.num_features=1024", "data.num_samples=1344"]  # 21 steps of training


@pytest.fixture
def without_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without memory files, where batches are in /dev/shm."""

    def refuse(_: str) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuse)


@pytest.fixture
def free_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the number of free bytes of memory."""
    return lambda num_bytes: monkeypatch.setattr("loaderlab.runs.shared_memory.available_memory", lambda: num_bytes)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the number of free bytes in /dev/shm."""

    def set_free(num_bytes: int) -> None:
        usage = shutil.disk_usage

        def fake(path: Path) -> object:
            return SimpleNamespace(free=num_bytes) if path == SHM else usage(path)

        monkeypatch.setattr(shutil, "disk_usage", fake)

    return set_free


@pytest.fixture
def warnings(make_config: Callable[..., TrainConfig], terminal: Terminal) -> Callable[..., list[str]]:
    """The warnings for a run with these overrides."""

    def check(*overrides: str) -> list[str]:
        config = make_config(*SETTINGS, *overrides)
        spec, loaders, cpu = data.build(config.data, lambda *_: None), LoaderSet(config, terminal), Cpu()
        training, validation = loaders.training(spec, loaders.plan(spec), cpu), loaders.validation(spec, cpu)
        check_shared_memory(spec, sample_bytes(spec), config.batch_size, training, validation, terminal)
        return terminal.said

    return check


@pytest.mark.usefixtures("without_slots")
def test_without_room_for_the_first_batches_no_worker_starts(
    free: Callable[[int], None],
    make_config: Callable[..., TrainConfig],
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free(2 * BATCH - 1)
    config, started = make_config(*SETTINGS, "loader.num_workers=2"), []
    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", lambda loader: started.append(loader))
    with pytest.raises(UserError) as error:
        run.run(config, job.single(config, []), terminal)
    assert str(error.value) == (
        "loader.num_workers=2: workers pass their batches through /dev/shm, and 2 batches of 0.2 MiB need 0.5 MiB, but "
        "0.5 MiB are free. Type: loader.num_workers=0, or docker run --shm-size=8g"
    )
    assert not started


@pytest.mark.usefixtures("without_slots")
@pytest.mark.parametrize(
    ("num_bytes", "overrides", "batches"),
    [
        (7 * BATCH, [], None),  # 2 workers x 2 batches, and 3 that are in use
        (7 * BATCH - 1, [], 7),
        (2 * BATCH, [], 7),
        (7 * BATCH, ["loader.prefetch_factor=3"], 9),
        (5 * BATCH, ["loader.prefetch_factor=1"], None),
        (20 * BATCH, ["loader.prefetch_factor=16"], 21),  # an epoch has 21 batches
        (21 * BATCH, ["loader.prefetch_factor=16"], None),
        (0, ["loader.num_workers=0"], None),
        (0, ["loader=spdl"], None),
    ],
)
def test_a_warning_before_the_batches_fill_it(
    free: Callable[[int], None],
    warnings: Callable[..., list[str]],
    num_bytes: int,
    overrides: list[str],
    batches: int | None,
) -> None:
    free(num_bytes)
    lines = warnings(*(overrides if "loader=spdl" in overrides else ["loader.num_workers=2", *overrides]))
    assert len(lines) == (batches is not None)
    for line in lines:
        assert f"/dev/shm may become full, and workers would then die: {batches} batches of 0.2 MiB" in line
        assert f"but {num_bytes / MIB:.1f} MiB are free. Type fewer loader.num_workers" in line


@pytest.mark.usefixtures("without_slots")
def test_the_workers_of_validation_are_checked(free: Callable[[int], None], warnings: Callable[..., list[str]]) -> None:
    free(0)
    with pytest.raises(UserError, match=r"free\. Type: evaluate=false, or docker run --shm-size=8g"):
        warnings("loader=replay", "data.work=1")


def test_slots_need_memory_but_no_dev_shm(
    free: Callable[[int], None], free_memory: Callable[[int], None], warnings: Callable[..., list[str]]
) -> None:
    free(0)
    free_memory(8 * BATCH)  # 2 workers, each with 2 batches ahead and 2 of the consumer's
    assert warnings("loader.num_workers=2") == []
    free_memory(8 * BATCH - 1)
    (line,) = warnings("loader.num_workers=2")
    assert line == (
        "warning: memory may become full, and workers would then die: 8 batches of 0.2 MiB need 2.0 MiB, but 2.0 MiB are free. "
        "Type fewer loader.num_workers, loader.prefetch_factor=1, or a smaller batch_size"
    )
    free_memory(2 * BATCH - 1)
    with pytest.raises(UserError) as error:
        warnings("loader.num_workers=2")
    assert str(error.value) == (
        "loader.num_workers=2: workers pass their batches through memory, and 2 batches of 0.2 MiB need 0.5 MiB, but "
        "0.5 MiB are free. Type: loader.num_workers=0, or a smaller batch_size"
    )
