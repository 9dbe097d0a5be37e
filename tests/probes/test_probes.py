"""The probes measure correctly, keep to their time, and restore everything."""

from __future__ import annotations

import copy
import itertools
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from loaderlab import data, loaders
from loaderlab.config import (
    AdamWOptimizer,
    ImageFolderData,
    MeasureConfig,
    NativeLoader,
    PrecisionConfig,
    TransformConfig,
)
from loaderlab.data.spec import ImageFiles, Split, Vectors
from loaderlab.device.base import Device
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.loaders.contract import Batch, EpochPlan, Loader
from loaderlab.meter import filecache
from loaderlab.probes.ceiling import ENOUGH_STEPS, WARMUP_STEPS, Deadline, Unmeasurable, ceiling, resident_batches
from loaderlab.probes.cold import cold_and_warm
from loaderlab.probes.inputs import ProbeInputs
from loaderlab.probes.loader_alone import loader_alone
from loaderlab.probes.sequence import Probes
from loaderlab.training import optimizers
from loaderlab.training.loop import Parts
from loaderlab.training.precision import Precision
from loaderlab.training.state import untouched
from loaderlab.training.step import ModelStep
from tests.parts import model_step

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIZE = 8


class Sleepy(Loader):
    """Random batches, each after a sleep; with ``ahead`` it declares a lookahead."""

    def __init__(self, sleep_s: float, device: Device, ahead: int = 0, steps: int = 10) -> None:
        self._sleep_s, self._device, self._steps = sleep_s, device, steps
        self.capabilities = LoaderCapabilities(lookahead=ahead)
        self.num_made = self.closed = 0  # batches made, calls of close

    @property
    def num_steps(self) -> int:
        return self._steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for _ in range(self._steps):
            time.sleep(self._sleep_s)
            self.num_made += 1
            yield Batch(torch.rand(SIZE, 5), torch.randint(0, 3, (SIZE,)), torch.arange(SIZE))

    def transfer(self, batch: Batch) -> Batch:
        return Batch(batch.inputs.to(self._device.torch_device), batch.targets.to(self._device.torch_device), batch.ids)

    def close(self) -> None:
        self.closed += 1


class Slow(nn.Module):
    """A step of known length, with dropout and a buffer that is not part of a checkpoint."""

    counts: torch.Tensor

    def __init__(self, sleep_s: float) -> None:
        super().__init__()
        self._sleep_s = sleep_s
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.register_buffer("counts", torch.zeros(()), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(self._sleep_s)
        self.counts += 1
        outputs: torch.Tensor = self.layers(inputs)
        return outputs


def parts_of(loader: Loader, device: Device, step_s: float = 0.0) -> Parts:
    torch.manual_seed(0)
    model = Slow(step_s).to(device.torch_device)
    optimizer, schedule = optimizers.build(AdamWOptimizer(lr=0.1), model, 50)
    return Parts(
        ModelStep(model, optimizer, schedule, Precision(PrecisionConfig(name="fp32"), device)), loader, loader, device
    )


@pytest.fixture(scope="module", autouse=True)
def torch_is_warm() -> None:
    """The first optimizer step of a process spends a second on imports; in a run, training does it before any probe."""
    for device in [Cpu(), *([Cuda()] if torch.cuda.is_available() else [])]:
        loader = Sleepy(0.0, device)
        ceiling(parts_of(loader, device), resident_batches(loader, 0), 0.05, 1)


def snapshot(parts: Parts) -> list[Any]:
    tensors = [
        tensor.detach().cpu().clone()
        for tensor in itertools.chain(model_step(parts).model.parameters(), model_step(parts).model.buffers())
    ]
    states = [torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy()]
    if parts.device.kind == "cuda":
        states.append(torch.cuda.get_rng_state(parts.device.torch_device))
    rest = {key: value for key, value in model_step(parts).state().items() if key != "model"}
    return [
        tensors,
        states,
        copy.deepcopy(rest),
        model_step(parts).model.training,
        [p.grad for p in model_step(parts).model.parameters()],
    ]


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left.cpu(), right.cpu())
    if isinstance(left, np.ndarray):
        return bool((left == right).all())
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("trained", [False, True])
def test_the_probes_restore_everything(name: str, trained: bool) -> None:
    device = Cuda() if name == "cuda" else Cpu()
    loader = Sleepy(0.0, device, ahead=1)
    parts = parts_of(loader, device)
    if trained:
        ceiling(parts, resident_batches(loader, 0), 0.05, 1)
    before = snapshot(parts)
    split = Split(Vectors(np.zeros((1, 5), np.float32), np.zeros(1, np.int64)))
    probes = Probes()
    inputs = ProbeInputs(
        parts,
        MeasureConfig(probe_s=0.5, cold=True),
        lambda: Sleepy(0.0, device, ahead=1),
        split,
        EpochPlan(80, SIZE, True, True),
        epoch=0,
        accumulate=1,
        rate=1000.0,
        busy_ms=1.0,
    )
    probes.run(inputs, lambda *_: None)
    results = probes.results
    assert None not in (results.ceiling, results.loader_alone, results.contended)
    assert results.notes == ("measure.cold=true: the samples do not come from files that loaderlab reads itself",)
    assert same(before, snapshot(parts))
    assert loader.closed


def test_rates_of_the_step_and_of_the_loader() -> None:
    """Steps of 4 ms, batches of 2 ms: 8 samples each."""
    device = Cpu()
    parts = parts_of(Sleepy(0.002, device), device, 0.004)
    with untouched(parts.step, parts.device):
        measured_ceiling = ceiling(parts, resident_batches(parts.loader, 0), 0.8, 1)
    alone = loader_alone(parts.loader, 0, 0.5, time.process_time, device)
    assert measured_ceiling is not None
    assert alone is not None
    assert 0 < measured_ceiling.samples_per_s < SIZE / 0.004
    assert 0 < alone.samples_per_s < SIZE / 0.002
    assert alone.cores < 0.7  # it sleeps


def test_contention_takes_one_batch_per_step() -> None:
    device = Cpu()
    fast, slow = Sleepy(0.0, device, ahead=1, steps=7), Sleepy(0.02, device, ahead=1)
    for loader in (fast, slow):
        parts = parts_of(loader, device, 0.002)
        with untouched(parts.step, parts.device):
            batches = resident_batches(Sleepy(0.0, device), 0)
            assert ceiling(parts, batches, 0.5, 1, concurrent_loader=loader) is not None
            counts = model_step(parts).model.counts
            assert isinstance(counts, torch.Tensor)
            steps = float(counts)
        assert loader.num_made <= steps + 2  # fewer than it could make
    assert slow.num_made <= fast.num_made


class Broken(Sleepy):
    def epoch(self, epoch: int) -> Iterator[Batch]:
        raise ValueError("no more files")


def test_an_error_of_the_loader_does_not_replace_that_of_the_step() -> None:
    class FailingStep(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("the first error")

    device = Cpu()
    parts = parts_of(Sleepy(0.0, device), device, 0.0)
    batches = resident_batches(parts.loader, 0)
    model_step(parts).model = FailingStep()
    with pytest.raises(RuntimeError, match="the first error"):
        ceiling(parts, batches, 0.05, 1, concurrent_loader=Broken(0.0, device, ahead=1))


def test_an_error_of_the_loader_is_raised_by_the_contention_probe() -> None:
    device = Cpu()
    parts = parts_of(Sleepy(0.0, device), device, 0.001)
    batches = resident_batches(parts.loader, 0)
    with untouched(parts.step, parts.device), pytest.raises(ValueError, match="no more files"):
        ceiling(parts, batches, 0.05, 1, concurrent_loader=Broken(0.0, device, ahead=1))


def test_the_deadline_is_extended_for_long_steps_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    deadline = Deadline(2.0)
    now = 105.0  # the clock starts with the first call: a loader may be slow to start
    assert not deadline()
    now = 107.0
    assert not deadline()  # too few steps: extended
    deadline.steps = WARMUP_STEPS + ENOUGH_STEPS
    assert deadline()
    deadline.steps -= 1
    now = 110.9
    assert not deadline()
    now = 111.0
    assert deadline()  # at most three times the time


def test_too_few_steps_give_no_rate() -> None:
    device = Cpu()
    parts = parts_of(Sleepy(0.0, device), device, 0.01)
    assert ceiling(parts, resident_batches(parts.loader, 0), 0.001, 1) is None


@pytest.fixture
def tree_on_disk() -> Iterator[Path]:
    """Images in a folder that the kernel can drop from its cache: pytest's own may be an in-memory file system."""
    root = Path(tempfile.mkdtemp(dir=Path(__file__).parent, prefix="cold-"))
    rng = np.random.default_rng(0)
    for label in ("ant", "bee"):
        (root / label).mkdir()
        for index in range(60):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(root / label / f"{index}.png")
    yield root
    shutil.rmtree(root)


def test_files_leave_the_cache_and_come_back(tree_on_disk: Path) -> None:
    paths = [str(path) for path in tree_on_disk.rglob("*.png")]
    (tree_on_disk / "ant" / "empty.png").touch()
    assert filecache.resident_share([*paths, str(tree_on_disk / "ant" / "empty.png")]) == 1.0
    filecache.drop(paths)
    if filecache.resident_share(paths) > 0.5:
        pytest.skip("the file system of this checkout keeps files in memory")
    assert filecache.resident_share(paths) == 0.0
    Path(paths[0]).read_bytes()
    assert 0 < filecache.resident_share(paths) < 0.1


def test_cold_and_warm(tree_on_disk: Path) -> None:
    device = Cpu()
    config = ImageFolderData(root=str(tree_on_disk), transform=TransformConfig(image_size=16, resize=16))
    split = data.build(config, lambda *_: None).train
    plan = EpochPlan(len(split.source), 4, True, True)

    def build() -> Loader:
        return loaders.build(NativeLoader(num_workers=0), split, plan, device)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3 * 16 * 16, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.last(inputs.float().flatten(1))
            return outputs

    model = Flat()
    optimizer, schedule = optimizers.build(AdamWOptimizer(), model, 50)
    parts = Parts(
        ModelStep(model, optimizer, schedule, Precision(PrecisionConfig(name="fp32"), device)), build(), None, device
    )
    try:
        inputs = ProbeInputs(
            parts, MeasureConfig(), build, split, plan, epoch=0, accumulate=1, rate=1000.0, busy_ms=1.0
        )
        assert isinstance(split.source, ImageFiles)
        cold, warm = cold_and_warm(inputs, split.source, 20)
    except Unmeasurable as reason:
        pytest.skip(str(reason))
    assert cold.samples_per_s > 0
    assert warm.samples_per_s > 0


def test_files_in_a_memory_file_system_stay_resident(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        pytest.skip("no /dev/shm")
    file = shm / f"loaderlab-test-{os.getpid()}"
    try:
        file.write_bytes(b"x" * 100_000)
        filecache.drop([str(file)])
        assert filecache.resident_share([str(file)]) > 0.9
    finally:
        file.unlink()
